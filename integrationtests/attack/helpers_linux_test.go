package attack_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

const (
	// attackers is the number of clients. A process has descriptors for twice
	// as many.
	attackers = 10_000
	// attackPatience ends a test that would otherwise hang.
	attackPatience = time.Minute
	// attackLong is a timeout that never expires in a test.
	attackLong = time.Hour
	// attackHead is the beginning of a head, 48 bytes. The client stalls after
	// it.
	attackHead = "GET /t HTTP/1.1\r\nHost: h.example\r\nX-A: 12345678"
)

// attackServer is the server process, as seen by the test.
type attackServer struct {
	address string
	http    bool
	in      io.Writer
	out     *os.File
	answers *json.Decoder
	base    attackStats // when no client was connected
}

// attackStart starts a server, which ends with the test.
func attackStart(t testing.TB, config attackConfig) *attackServer {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	encoded, err := json.Marshal(config)
	require.NoError(t, err)
	cmd := exec.Command(self)
	// Without this option the race detector waits for a second at the end of
	// the process.
	cmd.Env = append(os.Environ(), attackEnv+"="+string(encoded), "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		defer time.AfterFunc(attackPatience, func() { cmd.Process.Kill() }).Stop()
		require.NoError(t, cmd.Wait(), "the server must exit cleanly, and without a data race")
	})

	s := &attackServer{http: config.HTTP, in: in, out: out.(*os.File)}
	require.NoError(t, s.out.SetReadDeadline(time.Now().Add(attackPatience)))
	r := bufio.NewReader(s.out)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	s.address = strings.TrimSpace(line)
	s.answers = json.NewDecoder(r)
	s.base = s.until(t, "the acceptor waits", func(now attackStats) bool { return now.Calls == 1 })
	return s
}

// stats asks the server; the command "memory" makes it collect garbage first.
func (s *attackServer) stats(t testing.TB, command string) (now attackStats) {
	t.Helper()
	require.NoError(t, s.out.SetReadDeadline(time.Now().Add(attackPatience)))
	_, err := io.WriteString(s.in, command+"\n")
	require.NoError(t, err)
	require.NoError(t, s.answers.Decode(&now))
	return now
}

// until asks the server for its statistics until ok accepts them.
func (s *attackServer) until(t testing.TB, what string, ok func(attackStats) bool) attackStats {
	t.Helper()
	for end := time.Now().Add(attackPatience); ; {
		now := s.stats(t, "stats")
		if ok(now) {
			return now
		}
		if time.Now().After(end) {
			require.FailNow(t, "the server never came to this: "+what, "it began with %+v and is now at %+v", s.base, now)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// holds waits until the server has n more connections than at first, each with
// a goroutine.
func (s *attackServer) holds(t testing.TB, n int) {
	t.Helper()
	s.until(t, fmt.Sprintf("%d connections are held", n), func(now attackStats) bool {
		return now.Descriptors >= s.base.Descriptors+n && now.Goroutines >= s.base.Goroutines+n
	})
}

// waitReleased waits until the server holds no connection.
func (s *attackServer) waitReleased(t testing.TB) {
	t.Helper()
	s.until(t, "all connections are gone", func(now attackStats) bool {
		return now.Descriptors == s.base.Descriptors && now.Goroutines == s.base.Goroutines
	})
}

// attackEach calls f with 0 to n-1, several calls at a time. It stops at the
// first error and requires that there is none.
func attackEach(t testing.TB, n, atATime int, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for range atATime {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && first.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					err = fmt.Errorf("number %d of %d: %w", i, n, err)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		require.NoError(t, *err)
	}
}

// dial connects. The side that closes first resets the connection, so that no
// port stays occupied.
func (s *attackServer) dial() (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", s.address, attackPatience)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(attackPatience))
	return c.(*net.TCPConn), c.(*net.TCPConn).SetLinger(0)
}

// flood opens n connections and sends the bytes of send on each.
func (s *attackServer) flood(t testing.TB, n int, send string) []*net.TCPConn {
	t.Helper()
	conns := make([]*net.TCPConn, n)
	t.Cleanup(func() { attackClose(conns) })
	attackEach(t, n, 16, func(i int) (err error) {
		if conns[i], err = s.dial(); err == nil && send != "" {
			_, err = io.WriteString(conns[i], send)
		}
		return err
	})
	return conns
}

// attackClose closes the connections.
func attackClose(conns []*net.TCPConn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// attackEnds requires that the server closes each of the connections without a
// reset, after an answer that begins with want, or without a byte if want is
// empty. An answer has a second to be written. A machine that is busy with
// thousands of them at once may miss that for a few, so one in ten may be missing.
func attackEnds(t testing.TB, conns []*net.TCPConn, want string) {
	t.Helper()
	var missing atomic.Int64
	attackEach(t, len(conns), 16, func(i int) error {
		defer conns[i].Close()
		got, err := io.ReadAll(conns[i])
		switch {
		case err != nil:
			return err
		case want != "" && len(got) == 0:
			missing.Add(1)
		case !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0:
			return fmt.Errorf("the server sent %q", got)
		}
		return nil
	})
	require.LessOrEqual(t, missing.Load(), int64(len(conns)/10))
}

// good is a well-behaved client. It must be served.
func (s *attackServer) good() error {
	c, err := s.tunnel(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	return s.talk(c)
}

// tunnel is a connection after its handshake. A nil dialer means the default
// one.
func (s *attackServer) tunnel(d *preflight.PreflightDialer) (net.Conn, error) {
	if d == nil {
		d = new(preflight.PreflightDialer)
	}
	d.Path, d.HandshakeTimeout = "/t", attackPatience
	ctx, cancel := context.WithTimeout(context.Background(), attackPatience)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", s.address)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(attackPatience))
	}
	return c, err
}

// talk requires that the application answers.
func (s *attackServer) talk(c io.ReadWriter) error {
	if !s.http {
		return attackEchoes(c)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.example\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(answer.Body)
	if err == nil && string(body) != "served" {
		err = fmt.Errorf("the answer is %q", body)
	}
	return err
}

// attackEchoes requires that the application echoes a few bytes.
func attackEchoes(c io.ReadWriter) error {
	const text = "\x00hello"
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("the echo is wrong")
	}
	return nil
}
