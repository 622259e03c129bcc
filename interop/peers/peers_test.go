package peers

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

const (
	subprotocol = "preflight.v1"

	// size is the number of bytes in a transfer.
	size = 1 << 20

	// lateSize is the number of bytes that are sent before a late reader begins. They fit
	// into the buffers of the kernel, so the writer can close before any of them is read.
	lateSize = 256 << 10

	// period is a short KeepAlivePeriod, so that some PINGs are always in flight.
	period = 5 * time.Millisecond
)

// payload contains the same bytes in Go and in JavaScript.
var payload = sha3.SumSHAKE256(nil, size)

// A peer is another implementation of WebSocket.
type peer struct {
	name string
	dial func(t *testing.T, url string, roots *x509.CertPool, gate <-chan struct{}) <-chan report
	// serve starts a server. It sends a report at the end of each tunnel.
	serve func(t *testing.T, gate <-chan struct{}) (address string, reports <-chan report)
}

var peers = []peer{
	inGo("gorilla", dialGorilla, acceptGorilla),
	inGo("coder", dialCoder, acceptCoder),
	{
		name: "node",
		dial: func(t *testing.T, url string, _ *x509.CertPool, gate <-chan struct{}) <-chan report {
			return startNode(t, gate, "client", url).reports
		},
		serve: func(t *testing.T, gate <-chan struct{}) (string, <-chan report) {
			p := startNode(t, gate, "server")
			return fmt.Sprintf("127.0.0.1:%d", p.port), p.reports
		},
	},
}

// inGo returns a peer that runs in this process.
func inGo(name string, dial func(string, *x509.CertPool) (socket, error), accept func(http.ResponseWriter, *http.Request) (socket, error)) peer {
	talking := func(t *testing.T, s socket, mode string, gate <-chan struct{}, reports chan<- report) {
		r, err := talk(s, mode, gate)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		reports <- r
	}
	return peer{
		name: name,
		dial: func(t *testing.T, url string, roots *x509.CertPool, gate <-chan struct{}) <-chan report {
			s, err := dial(url, roots)
			require.NoError(t, err)
			t.Cleanup(s.drop)
			reports := make(chan report, 1)
			_, mode, _ := strings.Cut(strings.TrimPrefix(url[strings.Index(url, "//")+2:], "/"), "/")
			go talking(t, s, strings.TrimPrefix(mode, "client/"), gate, reports)
			return reports
		},
		serve: func(t *testing.T, gate <-chan struct{}) (string, <-chan report) {
			reports := make(chan report, 1)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s, err := accept(w, r)
				if err != nil {
					t.Error(err)
					return
				}
				talking(t, s, r.URL.Path[1:], gate, reports)
			}))
			t.Cleanup(server.Close)
			return server.Listener.Addr().String(), reports
		},
	}
}

// A mode defines what the two sides of a tunnel do. Our side is here, and the other side is in
// talk.
type mode struct {
	name string
	ours func(c *preflight.Conn) error
	// check checks the report of the other side, except for the code of the Close frame.
	check func(t *testing.T, r report)
	code  int // the code of the Close frame that the other side receives
}

// modes run one after the other. The path of a request contains the name of the mode.
var modes = append([]mode{
	// In source, the other side sends and our side echoes. In echo it is the reverse.
	{"source", func(c *preflight.Conn) error {
		_, err := io.Copy(c, c)
		return err
	}, hasData(payload), 1000},
	{"echo", transfer, hasData(payload), 1000},
	// The other side answers only after the end of our direction.
	{"reply", transfer, hasData(payload), 1000},
	// The other side receives many PINGs. Then it sends a PING capsule and a Ping frame, and
	// ends.
	{"pings", func(c *preflight.Conn) error { return expectEnd(io.ReadAll(c)) }, func(t *testing.T, r report) {
		require.GreaterOrEqual(t, r.Pings, 20)
		require.GreaterOrEqual(t, r.Pongs, 1)
		require.Equal(t, 1, r.RFCPongs)
		hasData(nil)(t, r)
	}, 1000},
	// The other side ends its direction and closes the tunnel at the same time.
	{"end-and-close", func(c *preflight.Conn) error { return errors.Join(greet(c), expectEnd(io.ReadAll(c))) }, nil, 1000},
	// The other side ends in ways that must not be reported as a clean end.
	{"drop", cutOff, nil, 1006},
	{"text", func(c *preflight.Conn) error {
		err := greet(c)
		if _, readErr := c.Read(make([]byte, 1)); readErr == nil || !strings.Contains(readErr.Error(), "text message") {
			err = errors.Join(err, fmt.Errorf("Read of a text message: %v", readErr))
		}
		return err
	}, nil, 1003},
}, closes(1000, 1001, 1005, 1011, 3000, 4999)...)

// closes are the modes in which the other side sends a Close frame with a code.
func closes(codes ...int) (modes []mode) {
	for _, code := range codes {
		modes = append(modes, mode{fmt.Sprintf("close/%d", code), func(c *preflight.Conn) error {
			err := cutOff(c)
			if _, writeErr := c.Write([]byte("x")); !errors.Is(writeErr, syscall.EPIPE) {
				err = errors.Join(err, fmt.Errorf("Write after a Close frame: %v", writeErr))
			}
			return err
		}, nil, code})
	}
	return modes
}

// hasData requires that the other side has received b and FINAL_DATA.
func hasData(b []byte) func(*testing.T, report) {
	sum := sha256.Sum256(b)
	return func(t *testing.T, r report) {
		require.Equal(t, len(b), r.Bytes)
		require.Equal(t, hex.EncodeToString(sum[:]), r.SHA256)
		require.True(t, r.Final)
	}
}

// transfer sends data and ends the direction. The other side must return the same data and end
// its direction.
func transfer(c *preflight.Conn) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(payload)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err = errors.Join(err, <-sent); err == nil && !bytes.Equal(payload, got) {
		err = fmt.Errorf("%d bytes came back, which are not the %d that were sent", len(got), size)
	}
	return err
}

func expectEnd(got []byte, err error) error {
	if err == nil && len(got) > 0 {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

// greet sends a few bytes, to which the other side reacts.
func greet(c *preflight.Conn) error {
	_, err := c.Write([]byte("hello"))
	return err
}

// cutOff requires that the tunnel ends without FINAL_DATA.
func cutOff(c *preflight.Conn) error {
	err := greet(c)
	_, readErr := c.Read(make([]byte, 1))
	if !errors.Is(readErr, io.ErrUnexpectedEOF) && !errors.Is(readErr, syscall.ECONNRESET) {
		err = errors.Join(err, fmt.Errorf("Read of a stream that was cut off: %v", readErr))
	}
	return err
}

// late sends, ends and closes before the other side reads anything, and then opens gate.
func late(c *preflight.Conn, writes <-chan struct{}, gate chan<- struct{}) error {
	defer close(gate)
	if _, err := c.Write(payload[:lateSize]); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	for len(writes) > 0 {
		<-writes
	}
	timeout := time.After(lab.Timeout)
	for range cap(writes) {
		select {
		case <-writes: // a PING, which the other side does not read
		case <-timeout:
			return errors.New("there are no PINGs")
		}
	}
	return c.Close()
}

// A counter is a connection that sends a value to writes for each Write, until writes is full.
type counter struct {
	net.Conn
	writes chan<- struct{}
}

func (c counter) Write(b []byte) (int, error) {
	select {
	case c.writes <- struct{}{}:
	default:
	}
	return c.Conn.Write(b)
}

// A countingListener wraps its connections in counters.
type countingListener struct {
	net.Listener
	writes chan<- struct{}
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return counter{c, l.writes}, nil
}
