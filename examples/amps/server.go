package main

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
)

// A server is the broker with its port and its sessions.
type server struct {
	cfg    config
	broker *broker
	log    *log.Logger

	mu       sync.Mutex
	sessions map[*session]bool
	ending   bool
	serving  sync.WaitGroup
}

func newServer(cfg config, logger *log.Logger) *server {
	return &server{
		cfg:      cfg,
		broker:   newBroker(cfg),
		log:      logger,
		sessions: make(map[*session]bool),
	}
}

// listener makes the one port: plain TCP, TLS, tunnels and WebSocket.
func (s *server) listener(ln net.Listener, tlsConfig *tls.Config) *preflight.PreflightListener {
	mux := http.NewServeMux()
	mux.HandleFunc(s.cfg.path, s.webSocket)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return &preflight.PreflightListener{
		Listener:  ln,
		TLSConfig: tlsConfig,
		Handler:   mux,
		Authorize: s.authorize,
		// A plain connection cannot show a token, so it is accepted only if none is
		// required.
		AllowPlain: s.cfg.token == "",
	}
}

type userKey struct{}

// authorize checks the request of a tunnel: the path, then the token. The context of
// the request carries the user to the application.
func (s *server) authorize(r *http.Request) (http.Header, error) {
	if r.URL.Path != s.cfg.path {
		return nil, &preflight.StatusError{StatusCode: http.StatusNotFound}
	}
	user, ok := s.user(r)
	if !ok {
		return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized, Header: challenge}
	}
	*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, user))
	return nil, nil
}

var challenge = http.Header{"Www-Authenticate": {"Bearer"}}

// user returns the user who sent a request, "" if no token is required. Clients send
// their token with add_http_preflight_header. The JavaScript client cannot send
// header fields. It makes Basic credentials from the name and the password in its
// URL.
func (s *server) user(r *http.Request) (string, bool) {
	if s.cfg.token == "" {
		return "", true
	}
	given := r.Header.Get("Authorization")
	if name, password, ok := r.BasicAuth(); ok {
		return s.cfg.user, equal(name, s.cfg.user) && equal(password, s.cfg.token)
	}
	return s.cfg.user, equal(given, "Bearer "+s.cfg.token)
}

// equal takes the same time whatever part of the secret was guessed.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// webSocket serves the JavaScript client. Authorize guards only tunnels, so a
// handler must check the token itself.
func (s *server) webSocket(w http.ResponseWriter, r *http.Request) {
	user, ok := s.user(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="amps"`)
		http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
		return
	}
	wire, err := newWebSocketWire(w, r)
	if err != nil {
		return
	}
	s.serve(wire, user, "websocket "+r.RemoteAddr)
}

// acceptAll serves the connections of the listener until that is closed.
func (s *server) acceptAll(listener net.Listener) error {
	for {
		accepted, err := listener.Accept()
		switch {
		case err == nil:
			conn := accepted.(*preflight.Conn)
			kind, user := "plain ", ""
			if r := conn.Request(); r != nil {
				kind = "tunnel "
				user, _ = r.Context().Value(userKey{}).(string)
			}
			go s.serve(newTCPWire(conn), user, kind+conn.RemoteAddr().String())
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			s.log.Print(err)
			time.Sleep(100 * time.Millisecond) // until another client has closed its connection
		default:
			return err
		}
	}
}

// serve runs a session and returns when it ends.
func (s *server) serve(w wire, user, name string) {
	session := newSession(s.broker, w, s.cfg.limits, user, name, s.log)
	s.mu.Lock()
	full := len(s.sessions) >= s.cfg.maxClients
	if full || s.ending {
		s.mu.Unlock()
		w.abort()
		if full {
			s.log.Printf("%s: refused, %d clients are connected", name, s.cfg.maxClients)
		}
		return
	}
	s.sessions[session] = true
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	session.run()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, session)
}

// shutdown refuses new clients, sends each client what is left for it and ends the
// sessions.
func (s *server) shutdown(listener *preflight.PreflightListener, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// Shutdown waits for the connections that Accept has returned, so the sessions
	// must be stopped at the same time.
	drained := make(chan error, 1)
	go func() { drained <- listener.Shutdown(ctx) }()
	s.each(func(session *session) { session.stop(errShutdown) })
	served := make(chan struct{})
	go func() { // with the WebSockets, for which Shutdown does not wait
		defer close(served)
		s.serving.Wait()
	}()
	select {
	case <-served:
	case <-ctx.Done():
		s.each(func(session *session) { session.abort(errShutdown) })
		<-served
		<-drained
		return fmt.Errorf("not every client had left after %v", grace)
	}
	return <-drained
}

// each calls do for all sessions. No session starts after it.
func (s *server) each(do func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for session := range s.sessions {
		do(session)
	}
}
