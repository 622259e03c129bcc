package attack_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// When the process has no free descriptor, Accept returns each error of the
// wrapped listener to the application, one by one. The acceptor then waits as
// long as the application does. Later everything works again.
func TestAttackDescriptors(t *testing.T) {
	for name, config := range map[string]attackConfig{
		"loop":     {},
		"net/http": {HTTP: true},
	} {
		t.Run(name, func(t *testing.T) {
			config.Descriptors, config.HandshakeTimeout = 64, attackLong
			s := attackStart(t, config)
			old, err := s.tunnel(nil)
			require.NoError(t, err)
			defer old.Close()
			require.NoError(t, s.talk(old))

			stuck := s.flood(t, 100, attackHead)
			starved := s.until(t, "the application backs off", func(now attackStats) bool { return now.AppErrors >= 6 })
			// The number is higher if the parent process left a descriptor with
			// a high number open.
			require.GreaterOrEqual(t, starved.Descriptors, 64)
			late := make(chan error, 1)
			go func() { late <- s.good() }()
			require.NoError(t, s.talk(old), "a delivered connection still works")
			starved = s.until(t, "one more error", func(now attackStats) bool { return now.AppErrors > starved.AppErrors })
			// The acceptor is at most one error ahead of the application.
			require.LessOrEqual(t, starved.Errors-starved.AppErrors, 1)
			require.LessOrEqual(t, starved.Calls, starved.Accepted+starved.Errors+1)

			attackClose(stuck)
			require.NoError(t, <-late, "the client that came too early is served in the end")
			attackEach(t, 20, 4, func(int) error { return s.good() })
			require.NoError(t, old.Close())
			s.waitReleased(t)
			end := s.stats(t, "stats")
			require.Equal(t, end.Errors, end.AppErrors)
			require.Equal(t, end.Accepted+end.Errors+1, end.Calls)
			require.Equal(t, 1+100+1+20, end.Accepted)
			// The pause doubles from 5 ms to one second in 8 steps. Then there
			// is one error each second. A loop without pauses sees thousands.
			require.LessOrEqual(t, end.AppErrors, 8+int(attackPatience/time.Second))
		})
	}
}

// attackEndless repeats a piece of text.
type attackEndless struct {
	piece []byte
	at    int
}

func (r *attackEndless) Read(b []byte) (int, error) {
	n := copy(b, r.piece[r.at:])
	r.at = (r.at + n) % len(r.piece)
	return n, nil
}

// The listener reads at most the limit of a head that is too large, plus what
// the client sends until it reads the answer.
func TestAttackOversizedHeads(t *testing.T) {
	const (
		clients = 8
		limit   = 16<<10 + 64<<10 + 512 // the head, the drain and its last Read
		start   = "GET /t HTTP/1.1\r\nHost: h.example\r\n"
	)
	s := attackStart(t, attackConfig{RequireUpgrade: true, HandshakeTimeout: attackLong, Observe: true})
	endless := func(piece string) io.Reader {
		return &attackEndless{piece: bytes.Repeat([]byte(piece), 64<<10/len(piece))}
	}
	for _, tt := range []struct {
		name   string
		send   func() io.Reader
		answer string
	}{
		{"a field of 1 MiB", func() io.Reader {
			return strings.NewReader(start + "X-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n")
		}, "HTTP/1.1 431 "},
		{"1 MiB of fields", func() io.Reader {
			return strings.NewReader(start + strings.Repeat("X-A: a\r\n", 1<<17) + "\r\n")
		}, "HTTP/1.1 431 "},
		{"a first line of 1 MiB", func() io.Reader {
			return strings.NewReader("GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\n\r\n")
		}, "HTTP/1.1 414 "},
		{"an endless field", func() io.Reader {
			return io.MultiReader(strings.NewReader(start+"X-A: "), endless("a"))
		}, "HTTP/1.1 431 "},
		{"endless fields", func() io.Reader {
			return io.MultiReader(strings.NewReader(start), endless("X-A: a\r\n"))
		}, "HTTP/1.1 431 "},
		{"an endless first line", func() io.Reader {
			return io.MultiReader(strings.NewReader("GET /"), endless("a"))
		}, "HTTP/1.1 414 "},
		{"endless empty lines", func() io.Reader { return endless("\r\n") }, ""},
		{"endless zeros", func() io.Reader { return endless("\x00") }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.stats(t, "stats")
			attackEach(t, clients, clients, func(int) error {
				c, err := s.dial()
				if err != nil {
					return err
				}
				defer c.Close()
				wrote := make(chan error, 1)
				go func() {
					_, err := io.Copy(c, tt.send())
					wrote <- err
				}()
				// If the server does not read all bytes, the connection ends
				// with a reset. The answer has arrived before it.
				got, err := io.ReadAll(c)
				if err != nil && !errors.Is(err, syscall.ECONNRESET) {
					return err
				}
				if !strings.HasPrefix(string(got), tt.answer) || tt.answer == "" && len(got) > 0 {
					return fmt.Errorf("the server sent %q", got)
				}
				// The kernel resets the connection if its buffers could not
				// hold all of it.
				if err := <-wrote; errors.Is(err, os.ErrDeadlineExceeded) {
					return err
				}
				return nil
			})
			s.waitReleased(t)
			after := s.stats(t, "stats")
			require.LessOrEqual(t, after.BytesRead-before.BytesRead, clients*limit)
			require.NoError(t, s.good())
		})
	}
}

// Clients that send byte by byte are eventually served, and they delay no other
// client.
func TestAttackSlowClients(t *testing.T) {
	const clients, good = 500, 50
	s := attackStart(t, attackConfig{HandshakeTimeout: attackLong})
	slow := s.flood(t, clients, "")
	head := testkit.Request("X-A: " + strings.Repeat("a", 2000))
	sendByte := func(at int) {
		for i, c := range slow {
			_, err := c.Write([]byte{head[at]})
			require.NoError(t, err, "client %d", i)
		}
	}
	at := 0
	for ; at < 10; at++ {
		sendByte(at)
	}
	served := make(chan error, good)
	go func() {
		for range good {
			served <- s.good()
		}
	}()
	for n := 0; n < good || at < 100; {
		select {
		case err := <-served:
			require.NoError(t, err)
			n++
		default:
			// The good clients may take as long as 2000 rounds.
			require.Less(t, at, len(head)-4, "the good clients were not served")
			sendByte(at)
			at++
		}
	}
	s.holds(t, clients)
	for i, c := range slow {
		_, err := io.WriteString(c, head[at:])
		require.NoError(t, err, "client %d", i)
	}
	attackEach(t, clients, 8, func(i int) error {
		r := bufio.NewReader(slow[i])
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusSwitchingProtocols {
			return errors.New(answer.Status)
		}
		return attackEchoes(struct {
			io.Reader
			io.Writer
		}{r, slow[i]})
	})
	attackClose(slow)
	s.waitReleased(t)
}

// A reset after any byte of a request, or after the whole request, leaks nothing.
func TestAttackResets(t *testing.T) {
	head := testkit.Request()
	t.Run("at once", func(t *testing.T) {
		s := attackStart(t, attackConfig{HandshakeTimeout: attackLong})
		const times = 5
		attackEach(t, times*(len(head)+1), 16, func(i int) error {
			c, err := s.dial()
			if err != nil {
				return err
			}
			if _, err := io.WriteString(c, head[:i/times]); err != nil {
				return err
			}
			return c.Close()
		})
		require.NoError(t, s.good())
		s.waitReleased(t)
		end := s.stats(t, "stats")
		require.Zero(t, end.Errors)
	})
	// Here the server waits for the next byte when the reset arrives.
	t.Run("after the server has read it", func(t *testing.T) {
		s := attackStart(t, attackConfig{HandshakeTimeout: attackLong, Observe: true})
		sum := 0
		conns := make([]*net.TCPConn, len(head)+1)
		for n := range conns {
			conns[n] = s.flood(t, 1, head[:n])[0]
			sum += n
		}
		s.until(t, "all has been read", func(now attackStats) bool { return now.BytesRead == sum && now.Upgraded == 1 })
		s.holds(t, len(conns))
		attackClose(conns)
		s.waitReleased(t)
		require.NoError(t, s.good())
		end := s.stats(t, "stats")
		require.Zero(t, end.Plain)
		require.Equal(t, 2, end.Upgraded)
	})
}
