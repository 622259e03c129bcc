package authorize_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Authorize sees the request as net/http would show it. Request returns the
// same request.
func TestAuthorizeSeesTheRequest(t *testing.T) {
	seen := make(chan *http.Request, 1)
	var remote, host, uri string
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(r *http.Request) (http.Header, error) {
		remote, host, uri = r.RemoteAddr, r.Host, r.RequestURI
		seen <- r
		return nil, nil
	}})
	accepted := testkit.AcceptAll(t, l)
	for _, tt := range []struct {
		name, line, hostField string
		path, query, host     string
	}{
		{"origin form", "/client/amps%2Fjson?token=a%20b&x", "edge.example:8443", "/client/amps/json", "token=a%20b&x", "edge.example:8443"},
		{"absolute form: the target's host", "http://real.example:81/p?q=1", "other.example", "/p", "q=1", "real.example:81"},
		{"IPv6", "/", "[2001:db8::1]:80", "/", "", "[2001:db8::1]:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := testkit.Upgraded(t, l, "GET "+tt.line+" HTTP/1.1\r\nhost: "+tt.hostField+
				"\r\nconnection: close, upgrade\r\nupgrade: TCP\r\nx-a: 1\r\nX-A:  2 \r\nX-Forwarded-For: 10.0.0.1\r\n\r\n")
			r := <-seen
			conn := testkit.NextConn(t, accepted)
			require.Same(t, r, conn.Request())
			require.Equal(t, http.MethodGet, r.Method)
			require.Equal(t, tt.path, r.URL.Path)
			require.Equal(t, tt.query, r.URL.RawQuery)
			require.Equal(t, tt.line, uri)
			require.Equal(t, tt.host, host)
			require.Equal(t, "HTTP/1.1", r.Proto)
			require.Equal(t, []string{"1", "2"}, r.Header["X-A"])
			require.Equal(t, "TCP", r.Header.Get("Upgrade"))
			require.Equal(t, "10.0.0.1", r.Header.Get("X-Forwarded-For"))
			require.Zero(t, r.ContentLength)
			require.Equal(t, c.LocalAddr().String(), remote)
			require.Equal(t, remote, conn.RemoteAddr().String())
		})
	}
}

type contextKey struct{}

// Values that Authorize puts into the Context reach the application. That
// Context does not end, neither with the deadline of the handshake nor with
// Close.
func TestAuthorizePassesAContext(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(r *http.Request)
		want any
	}{
		{"a value", func(r *http.Request) {
			*r = *r.WithContext(context.WithValue(r.Context(), contextKey{}, "user"))
		}, "user"},
		{"nothing", func(*http.Request) {}, nil},
		{"a value with another deadline", func(r *http.Request) {
			ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), contextKey{}, "user"), time.Nanosecond)
			cancel()
			*r = *r.WithContext(ctx)
		}, "user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testkit.NewNetwork()
				var during context.Context
				l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Authorize: func(r *http.Request) (http.Header, error) {
					during = r.Context()
					tt.put(r)
					return nil, nil
				}})
				accepted := testkit.AcceptAll(t, l)
				c := n.Dial(t)
				require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
				conn := <-accepted
				require.Error(t, during.Err(), "the Context of the handshake ends with it")
				for range 2 {
					ctx := conn.Request().Context()
					require.NoError(t, ctx.Err())
					require.Equal(t, tt.want, ctx.Value(contextKey{}))
					_, bounded := ctx.Deadline()
					require.False(t, bounded)
					require.Same(t, conn.Request(), conn.Response().Request)
					time.Sleep(time.Hour)
					require.NoError(t, l.Close())
					synctest.Wait()
				}
				testkit.Talk(t, c, conn)
			})
		})
	}
}

// The Context of a blocked Authorize ends with the handshake. A result that
// comes after that opens no tunnel.
func TestAuthorizeIsBoundedByTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{
			Listener:         n,
			HandshakeTimeout: 5 * time.Second,
			Authorize: func(r *http.Request) (http.Header, error) {
				deadline, ok := r.Context().Deadline()
				if !ok || !deadline.Equal(start.Add(5*time.Second)) {
					return nil, errors.New("a wrong deadline")
				}
				<-r.Context().Done()
				if r.Context().Err() != context.DeadlineExceeded {
					return nil, errors.New("a wrong end")
				}
				time.Sleep(time.Second)
				return nil, nil
			},
		})
		accepted := testkit.AcceptAll(t, l)
		c := n.Dial(t)
		time.Sleep(2 * time.Second) // reading the head used part of the time
		c.Send(t, testkit.Request())
		c.Ended(t)
		require.Equal(t, 6*time.Second, time.Since(start), "it ends when Authorize returns")
		synctest.Wait()
		require.True(t, c.Server.Closed.Load())
		require.Empty(t, accepted)
	})
}

// A refusal is still sent if Authorize returns it when the handshake has ended.
func TestAuthorizeRefusesAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Authorize: func(r *http.Request) (http.Header, error) {
			<-r.Context().Done()
			return nil, &preflight.StatusError{StatusCode: http.StatusServiceUnavailable}
		}})
		testkit.AcceptAll(t, l)
		a := <-n.Dial(t).Ask(testkit.Request())
		require.NoError(t, a.Err)
		require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	})
}

func TestAuthorizeEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n, entered := testkit.NewNetwork(), make(chan struct{})
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n, Authorize: func(r *http.Request) (http.Header, error) {
			close(entered)
			<-r.Context().Done()
			return nil, nil // it ignores its Context
		}})
		accepted := testkit.AcceptAll(t, l)
		c := n.Dial(t)
		c.Send(t, testkit.Request())
		<-entered
		require.NoError(t, l.Close())
		c.Ended(t)
		synctest.Wait()
		require.True(t, c.Server.Closed.Load())
		require.Zero(t, time.Since(start))
		require.Empty(t, accepted)
	})
}

// Authorize is called concurrently. One call that waits does not block others.
func TestAuthorizeIsConcurrent(t *testing.T) {
	together := make(chan struct{})
	arrived := make(chan struct{}, 10)
	l := testkit.Listen(t, &preflight.PreflightListener{Authorize: func(*http.Request) (http.Header, error) {
		arrived <- struct{}{}
		<-together
		return nil, nil
	}})
	accepted := testkit.AcceptAll(t, l)
	var answers []<-chan testkit.Answer
	for range cap(arrived) {
		answers = append(answers, testkit.DialClient(t, l).Ask(testkit.Request()))
	}
	for range cap(arrived) {
		<-arrived
	}
	close(together)
	for _, a := range answers {
		require.Equal(t, 101, (<-a).StatusCode)
		require.IsType(t, &net.TCPConn{}, testkit.NextConn(t, accepted).NetConn())
	}
}
