//go:build linux && !race

// The race detector itself needs memory.

package attack_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// The tests compare the memory of a stalled connection in the server process
// with that in a server without a PreflightListener.
func TestBudgetAttackMidHead(t *testing.T) {
	attackBudget(t, attackLoad{send: attackHead}, 1.25, 0)
}

func TestBudgetAttackSilent(t *testing.T) {
	attackBudget(t, attackLoad{}, 1.25, 0)
}

// An idle tunnel keeps the head of its request in memory.
func TestBudgetAttackTunnels(t *testing.T) {
	head := testkit.Request("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "Authorization: Bearer 0123456789abcdef")
	attackBudget(t, attackLoad{send: head, tunnel: true}, 1.15, len(head))
}

// attackLoad is what each client does before it stops sending.
type attackLoad struct {
	config attackConfig
	send   string
	tunnel bool // the bytes are an upgrade request, which must be answered
}

// attackBudget compares the listener with a raw server. limit is the largest
// allowed ratio of the memory per connection. excluded is a number of bytes per
// connection that is not counted.
func attackBudget(t *testing.T, load attackLoad, limit float64, excluded int) {
	load.config.Collect = true
	raw := load
	raw.config.Raw = true
	base := attackMeasure(t, "raw", raw)
	load.config.MaxPending, load.config.HandshakeTimeout = 2*attackers, attackLong
	ours := attackMeasure(t, "preflight", load)
	ratio := (ours - float64(excluded)) / base
	t.Logf("%.3f x raw of %.2f, excluded %d bytes", ratio, limit, excluded)
	require.LessOrEqual(t, ratio, limit)
}

// attackMeasure returns the resident memory per connection.
func attackMeasure(t *testing.T, name string, load attackLoad) float64 {
	t.Helper()
	s := attackStart(t, load.config)
	connect := func(n int) []*net.TCPConn {
		conns := s.flood(t, n, load.send)
		s.holds(t, n)
		attackEach(t, n, 16, func(i int) error {
			switch {
			case load.config.Raw:
				// When the echo has arrived, the application has read the
				// bytes.
				_, err := io.CopyN(io.Discard, conns[i], int64(len(load.send)))
				return err
			case !load.tunnel:
				return nil
			}
			r := bufio.NewReader(conns[i])
			line, err := r.ReadString('\n')
			if err == nil && !strings.HasPrefix(line, "HTTP/1.1 101 ") {
				err = fmt.Errorf("the server sent %q", line)
			}
			for err == nil && line != "\r\n" {
				line, err = r.ReadString('\n')
			}
			if err != nil {
				return err
			}
			return attackEchoes(struct {
				io.Reader
				io.Writer
			}{r, conns[i]})
		})
		s.hasRead(t)
		return conns
	}
	// One connection first, so that what is loaded or allocated only once is in
	// the baseline.
	attackClose(connect(100))
	s.waitReleased(t)
	before := s.stats(t, "memory")
	conns := connect(attackers)
	if !load.config.Raw && !load.tunnel {
		// The good clients are served at the same time, one after the other.
		for range 100 {
			require.NoError(t, s.good())
		}
	}
	after := s.stats(t, "memory")
	attackClose(conns)
	per := func(before, after int) float64 { return float64(after-before) / attackers }
	rss := per(before.RSS, after.RSS)
	t.Logf("%s, bytes per connection: RSS %.0f, stack %.0f, heap %.0f", name, rss, per(before.Stack, after.Stack), per(before.Heap, after.Heap))
	return rss
}

// hasRead waits until the server's receive buffers are empty.
func (s *attackServer) hasRead(t *testing.T) {
	t.Helper()
	_, port, err := net.SplitHostPort(s.address)
	require.NoError(t, err)
	var number int
	_, err = fmt.Sscan(port, &number)
	require.NoError(t, err)
	local := fmt.Sprintf("0100007F:%04X", number)
	s.until(t, "all has been read", func(attackStats) bool {
		table, err := os.ReadFile("/proc/net/tcp") // proc_net_tcp(5)
		require.NoError(t, err)
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			const established = "01"
			if f[1] == local && f[3] == established && !strings.HasSuffix(f[4], ":00000000") {
				return false
			}
		}
		return true
	})
}
