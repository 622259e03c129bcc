package attack_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Ten thousand clients that stall in their heads do not disturb other clients.
func TestAttackStalledHeads(t *testing.T) {
	s := attackStart(t, attackConfig{MaxPending: 2 * attackers, HandshakeTimeout: attackLong})
	stuck := s.flood(t, attackers, attackHead)
	s.holds(t, attackers)
	attackEach(t, 200, 8, func(int) error { return s.good() })
	s.holds(t, attackers) // there was room for all, so none was evicted
	attackClose(stuck)
	s.waitReleased(t)
}

// After HandshakeTimeout each of them gets its answer. Nothing leaks.
func TestAttackStalledHeadsTimeOut(t *testing.T) {
	s := attackStart(t, attackConfig{MaxPending: 2 * attackers, HandshakeTimeout: 3 * time.Second})
	attackEnds(t, s.flood(t, attackers, attackHead), "HTTP/1.1 408 ")
	s.waitReleased(t)
	require.NoError(t, s.good())
}

// If plain connections are refused, ten thousand silent clients are closed
// without an answer.
func TestAttackSilentClientsRefused(t *testing.T) {
	s := attackStart(t, attackConfig{MaxPending: 2 * attackers, HandshakeTimeout: 3 * time.Second, RequireUpgrade: true, Observe: true})
	silent := s.flood(t, attackers, "")
	attackEach(t, 20, 4, func(int) error { return s.good() })
	attackEnds(t, silent, "")
	s.waitReleased(t)
	end := s.stats(t, "stats")
	require.Zero(t, end.Plain)
	require.Equal(t, 20, end.Upgraded)
}

// If plain connections are accepted, each silent client is delivered to the
// application and stays open.
func TestAttackSilentClientsDelivered(t *testing.T) {
	s := attackStart(t, attackConfig{MaxPending: 2 * attackers, HandshakeTimeout: 3 * time.Second, Observe: true})
	silent := s.flood(t, attackers, "")
	attackEach(t, 20, 4, func(int) error { return s.good() })
	s.until(t, "all are delivered", func(now attackStats) bool { return now.Plain >= attackers })
	attackEach(t, attackers, 16, func(i int) error { return attackEchoes(silent[i]) })
	attackClose(silent)
	s.waitReleased(t)
	end := s.stats(t, "stats")
	require.Equal(t, attackers, end.Plain)
	require.Equal(t, 20, end.Upgraded)
}

// There are more attackers than places, and each attacker reconnects when it is
// closed. The listener closes the oldest, so good clients are served. The
// number of handshakes stays within MaxPending.
func TestAttackMoreClientsThanPlaces(t *testing.T) {
	const (
		most   = 4096 // the default
		good   = 50
		margin = 32 // the acceptor, the application, and goroutines that are about to end
		// This counts the connections in the listener and in the kernel's
		// backlog. The backlog holds 4096 more and needs room for the good
		// clients: if it overflows, the kernel needs many seconds to recover.
		atATime = 7_800
	)
	s := attackStart(t, attackConfig{HandshakeTimeout: attackLong})
	a := &attackRelay{server: s, conns: make([]*net.TCPConn, atATime), gate: make(chan struct{}, 32)}
	for i := range a.conns {
		a.wg.Go(func() { a.run(i) })
	}
	defer a.stop()
	s.until(t, "each attacker has connected once", func(now attackStats) bool { return now.Accepted > attackers })
	before := a.opened.Load()
	attackEach(t, good, 10, func(int) error { return s.good() })
	require.Greater(t, a.opened.Load(), before+good, "the attack continued in the meantime")
	a.stop()
	end := s.stats(t, "stats")
	require.Zero(t, a.failed.Load(), "attackers that could not connect")
	require.GreaterOrEqual(t, end.MaxGoroutines, most)
	require.LessOrEqual(t, end.MaxGoroutines, most+good+margin)
	s.waitReleased(t)
}

// attackRelay is a group of attackers. Each one reconnects as soon as it has
// been closed.
type attackRelay struct {
	server         *attackServer
	gate           chan struct{} // limits the number of concurrent dials
	opened, failed atomic.Int64
	wg             sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	conns   []*net.TCPConn
}

func (a *attackRelay) run(i int) {
	for {
		a.gate <- struct{}{}
		c, err := a.server.dial()
		<-a.gate
		if err != nil {
			a.failed.Add(1)
			return
		}
		a.mu.Lock()
		a.conns[i] = c
		stopped := a.stopped
		a.mu.Unlock()
		if !stopped {
			a.opened.Add(1)
			io.WriteString(c, attackHead)
			io.Copy(io.Discard, c)
		}
		c.Close()
		if stopped {
			return
		}
	}
}

func (a *attackRelay) stop() {
	a.mu.Lock()
	a.stopped = true
	attackClose(a.conns)
	a.mu.Unlock()
	a.wg.Wait()
}
