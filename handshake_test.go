package preflight

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// exchangeConn notes the deadlines that stand.
type exchangeConn struct {
	net.Conn
	read, write time.Time
}

func (c *exchangeConn) SetDeadline(t time.Time) error {
	c.read, c.write = t, t
	return nil
}

func (c *exchangeConn) SetReadDeadline(t time.Time) error {
	c.read = t
	return nil
}

func (c *exchangeConn) Close() error { return nil }

// A new deadline undoes neither an interruption nor an eviction, whatever the
// moment in which it meets them. From outside these moments cannot be chosen.
func TestExchangeDeadlinesUndoNothing(t *testing.T) {
	later := time.Now().Add(time.Hour)
	deadlines := map[string]func(*exchange){
		"begin":           func(x *exchange) { require.NoError(t, x.begin(context.Background(), later)) },
		"setReadDeadline": func(x *exchange) { x.setReadDeadline(later) },
		"setDeadlines":    func(x *exchange) { x.setDeadlines(later) },
		"finishBy":        func(x *exchange) { x.finishBy(later) },
	}
	for name, set := range deadlines {
		for _, tt := range []struct {
			what        string
			end         func(*exchange)
			read, write time.Time
		}{
			{"interrupted", (*exchange).abort, aLongTimeAgo, aLongTimeAgo},
			{"interrupted while it waits", func(x *exchange) { x.startWaiting(); x.abort() }, aLongTimeAgo, aLongTimeAgo},
			{"evicted", func(x *exchange) { x.startWaiting(); require.True(t, x.evict()) }, aLongTimeAgo, time.Time{}},
			{"evicted and interrupted", func(x *exchange) { x.startWaiting(); require.True(t, x.evict()); x.abort(); x.stopWaiting() }, aLongTimeAgo, aLongTimeAgo},
		} {
			t.Run(name+"/"+tt.what, func(t *testing.T) {
				c := new(exchangeConn)
				x := newExchange(c)
				tt.end(x)
				set(x)
				require.Equal(t, tt.read, c.read)
				require.Equal(t, tt.write, c.write)
			})
		}
		t.Run(name+"/evicted, and its bytes came", func(t *testing.T) {
			c := new(exchangeConn)
			x := newExchange(c)
			x.startWaiting()
			require.True(t, x.evict())
			x.stopWaiting()
			set(x)
			require.Equal(t, later, c.read, "for its answer, and what follows")
		})
	}
}

// Only who waits can be evicted, once, and an eviction can be taken back once, but
// for what was interrupted.
func TestExchangeEviction(t *testing.T) {
	c := new(exchangeConn)
	x := newExchange(c)
	x.deadline = time.Now().Add(time.Hour)
	require.False(t, x.evict(), "it does not wait")
	require.False(t, x.undoEviction(), "it was not evicted")
	require.Zero(t, c.read)
	x.startWaiting()
	require.True(t, x.evict())
	require.False(t, x.evict(), "it was evicted already")
	x.stopWaiting()
	require.True(t, x.undoEviction())
	require.Equal(t, x.deadline, c.read)
	require.False(t, x.undoEviction())
	x.startWaiting()
	require.True(t, x.evict())
	x.abort()
	x.stopWaiting()
	require.False(t, x.undoEviction())
	require.Equal(t, aLongTimeAgo, c.read)
}

// The end of a handshake does not make one good that was interrupted, and leaves
// its connection as it is.
func TestExchangeEndOfAnInterruptedOne(t *testing.T) {
	c := new(exchangeConn)
	x := newExchange(c)
	require.NoError(t, x.begin(context.Background(), time.Now().Add(time.Hour)))
	x.abort()
	require.ErrorIs(t, x.end(nil), errInterrupted)
	require.Equal(t, aLongTimeAgo, c.read)
	require.Equal(t, aLongTimeAgo, c.write)
}
