package listener_test

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// The first connections of a panicListener panic in Read and keep the buffer that
// Read was given. A transport that passes its work to another goroutine may do
// that.
type panicListener struct {
	net.Listener
	mu   sync.Mutex
	kept map[*byte]bool
	used int // how many kept buffers other connections have used
}

type panicConn struct {
	net.Conn
	l      *panicListener
	panics bool
}

func (l *panicListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return panicConn{c, l, len(l.kept) < 100}, nil
}

func (c panicConn) Read(b []byte) (int, error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.panics {
		c.l.kept[&b[0]] = true
		panic("a fault of Read")
	}
	if c.l.kept[&b[0]] {
		c.l.used++
	}
	return 0, io.EOF
}

// The memory of a handshake that panicked is not used again, because the code
// that panicked may still write to it.
func TestListenerDoesNotReuseMemoryAfterAPanic(t *testing.T) {
	testkit.CaptureLog(t)
	inner := &panicListener{Listener: testkit.ListenTCP(t), kept: make(map[*byte]bool)}
	l := testkit.Listen(t, &preflight.PreflightListener{Listener: inner, RequireUpgrade: true})
	testkit.AcceptAll(t, l)
	for range 300 {
		c := testkit.DialClient(t, l)
		_, err := io.ReadAll(c)
		require.NoError(t, err)
		c.Close()
	}
	inner.mu.Lock() // the goroutine of the last handshake may still be in Read
	defer inner.mu.Unlock()
	require.Len(t, inner.kept, 100)
	require.Zero(t, inner.used)
}
