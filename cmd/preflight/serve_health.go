package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// handler answers the ordinary requests on the port.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerStatus(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.draining.Load():
			answerStatus(w, http.StatusServiceUnavailable, "draining")
		case !allUp(s.health.check(s.current.Load())):
			answerStatus(w, http.StatusServiceUnavailable, "a server does not accept connections")
		default:
			answerStatus(w, http.StatusOK, "ok")
		}
	})
	mux.HandleFunc("GET /status", s.serveStatus)
	// Like the 426 of the library ((*Request).Ordinary in internal/wire), with a text of its own.
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if set := s.current.Load(); set.Echo && set.admit(r) == nil && s.arrivals.Answer(w, r) {
			return
		}
		w.Header().Set("Connection", "close") // net/http expects it to stand first
		w.Header().Add("Connection", "Upgrade")
		w.Header().Set("Upgrade", "tcp, tcps, websocket")
		answerStatus(w, http.StatusUpgradeRequired, "this port opens tunnels, and the request has no upgrade: a proxy may have removed it")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Nothing here reads a body. But net/http waits for it, without a limit of its own.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		mux.ServeHTTP(w, r)
	})
}

// bodyTimeout bounds the wait for the body of a request. Tests shorten it.
var bodyTimeout = 10 * time.Second

func answerStatus(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// A health knows which servers accept connections. It dials them at most once a second,
// however often it is asked: anybody may ask.
type health struct {
	mu      sync.Mutex
	set     *settings // that was checked
	checked time.Time
	up      []bool // in the order of the routes
}

const healthAge = time.Second

func (h *health) check(set *settings) (up []bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.set != set || time.Since(h.checked) >= healthAge {
		h.up = dialAll(set.routes)
		h.set, h.checked = set, time.Now()
	}
	return h.up
}

func allUp(up []bool) bool { return !slices.Contains(up, false) }

func dialAll(routes []route) []bool {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	up := make([]bool, len(routes))
	var dialing sync.WaitGroup
	for i, r := range routes {
		dialing.Go(func() {
			c, err := r.dial(ctx)
			if err == nil {
				c.Close()
			}
			up[i] = err == nil
		})
	}
	dialing.Wait()
	return up
}
