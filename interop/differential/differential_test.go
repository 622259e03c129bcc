// Package differential sends generated requests through real reverse proxies to a listener
// that accepts plain connections. Each proxy runs with its file of deploy/, and with laxer
// configurations. Nothing that a proxy forwards may reach the application as plain data:
// the application would execute the body of a request as commands.
//
//	go test -run 'Differential/haproxy' -requests 20000 -seed 7 -v .
package differential

import (
	"bufio"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var (
	count = flag.Uint64("requests", 1500, "number of requests to each proxy")
	seed  = flag.Uint64("seed", 0, "seed of the requests, which each run logs; 0: a new seed")
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// TestDifferential requires that nothing of a request reaches the application.
func TestDifferential(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d -requests %d", *seed, *count)
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			address := startProxy(t, b.address, p.command, b.reached)
			before := len(b.all())
			sendAll(address)
			b.stop()

			forwarded := b.all()[before:]
			t.Logf("%d of %d requests were forwarded", len(forwarded), *count)
			require.Greater(t, uint64(len(forwarded)), *count/20, "the proxy forwards almost nothing")
			for _, r := range forwarded {
				line, _, whole := strings.Cut(r.sent(), "\n")
				if got := r.leaked(); got != "" && (p.exempt == nil || !p.exempt(line)) {
					t.Errorf("with the listener %q, this reached the application: %.300q", r.listener, got)
				}
				if p.deployed && whole && !wellFormed.MatchString(line) {
					t.Errorf("the file of deploy/ passes this on: %.300q", line)
				}
			}
		})
	}
}

// sendAll sends the requests, with several clients at once.
func sendAll(address string) {
	var clients sync.WaitGroup
	var next atomic.Uint64
	for range 8 {
		clients.Go(func() {
			for i := next.Add(1); i <= *count; i = next.Add(1) {
				send(address, generate(rand.New(rand.NewPCG(*seed, i))))
			}
		})
	}
	clients.Wait()
}

// send sends a request on a connection of its own, and waits for the answer. There is none
// if the proxy waits for the rest of the request.
func send(address, request string) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err = io.WriteString(c, request); err != nil {
		return
	}
	if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
		answer.Body.Close()
	}
}
