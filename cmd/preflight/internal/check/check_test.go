package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

const (
	secretField = "header-s3cr3t"
	secretQuery = "query-s3cr3t"
)

// A recorder keeps all that any connection sends, and answers each piece with text.
type recorder struct {
	net.Listener
	answer string

	mu   sync.Mutex
	sent bytes.Buffer
}

func record(t *testing.T, answer string, wrap func(net.Listener) net.Listener) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	if wrap != nil {
		l = wrap(l)
	}
	r := &recorder{Listener: l, answer: answer}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				b := make([]byte, 64<<10)
				c.SetDeadline(time.Now().Add(10 * time.Second))
				n, _ := c.Read(b)
				r.mu.Lock()
				r.sent.Write(b[:n])
				r.mu.Unlock()
				io.WriteString(c, r.answer)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return r
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent.String()
}

// run checks the address with a secret in the header and in the query.
func run(t *testing.T, address string, config *tls.Config, proxy *url.URL) *Report {
	t.Helper()
	target := &Target{
		Name: "edge", Address: address,
		Dialer: &preflight.PreflightDialer{Path: "/pg?key=" + secretQuery, TLSConfig: config, HandshakeTimeout: time.Second},
		Fields: func(context.Context) (http.Header, error) {
			return http.Header{"Authorization": {secretField}}, nil
		},
		Wanted: []preflight.Carrier{preflight.CarrierUpgrade},
	}
	if proxy != nil {
		target.Dialer.Proxy = http.ProxyURL(proxy)
	}
	r := Run(t.Context(), target, func(string) {})
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.NotContains(t, string(b), secretField)
	require.NotContains(t, string(b), secretQuery)
	var out bytes.Buffer
	NewView(&out, io.Discard, true, false).Print(r)
	require.NotContains(t, out.String(), "s3cr3t")
	return r
}

// TestSecretsInAnswers lets a server send the request back, in each part of an answer.
func TestSecretsInAnswers(t *testing.T) {
	echo := "HTTP/1.1 403 " + secretField + "\r\nServer: nginx " + secretField + "\r\nX-Back: " + secretQuery + "\r\nLocation: https://edge/?" + secretQuery +
		"\r\nPreflight-Refusal: " + secretField + "\r\n\r\n" + secretField + secretQuery
	server := record(t, echo, nil)
	r := run(t, server.Addr().String(), nil, nil)
	require.False(t, r.Works)
	require.Contains(t, server.text(), secretField, "the request must have it, or the test proves nothing")
	run(t, record(t, secretField+secretQuery, nil).Addr().String(), nil, nil)
}

// TestSecretsStay dials https URLs whose certificate cannot be trusted, or whose port is
// plain. No secret may be sent then.
func TestSecretsStay(t *testing.T) {
	certificate, err := selfSigned()
	require.NoError(t, err)
	plain := record(t, "HTTP/1.1 200 OK\r\n\r\n", nil)
	require.Equal(t, "plain-port", run(t, plain.Addr().String(), new(tls.Config), nil).Verdict.Code)
	require.Contains(t, plain.text(), "GET / HTTP/1.1")
	require.NotContains(t, plain.text(), "s3cr3t")

	// What is sent over this certificate is recorded without TLS.
	untrusted := record(t, "HTTP/1.1 200 OK\r\n\r\n", func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}})
	})
	require.False(t, run(t, untrusted.Addr().String(), new(tls.Config), nil).Works)
	require.NotContains(t, untrusted.text(), "s3cr3t")

	// A forward proxy that does not connect gets nothing that is for the edge.
	forward := record(t, "HTTP/1.1 403 Forbidden\r\nServer: squid\r\n\r\n", nil)
	r := run(t, "edge.example:80", nil, &url.URL{Scheme: "http", Host: forward.Addr().String(), User: url.UserPassword("jane", "password-s3cr3t")})
	require.Equal(t, "connect-forbidden", r.Verdict.Code)
	require.Contains(t, forward.text(), "CONNECT edge.example:80")
	require.NotContains(t, forward.text(), secretField)
	require.NotContains(t, forward.text(), secretQuery)
}

// TestInterrupt requires that a check ends with its context.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and answers nothing
	require.NoError(t, err)
	defer l.Close()
	target := &Target{
		Address: l.Addr().String(), Dialer: &preflight.PreflightDialer{Path: "/", HandshakeTimeout: time.Hour},
		Fields: func(context.Context) (http.Header, error) { return nil, nil },
		Wanted: []preflight.Carrier{preflight.CarrierUpgrade},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(ctx, target, func(what string) {
			if what == string(preflight.CarrierUpgrade) {
				cancel()
			}
		})
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}

// TestView shows progress and colour only where they are wanted.
func TestView(t *testing.T) {
	r := &Report{
		URL: "http://edge/pg", Steps: []Step{{Name: "tcp", OK: true, Detail: "edge"}, {Name: "upgrade", Detail: "426"}},
		Questions: []*Answer{{Name: "get", Outcome: answered, Status: 200, Products: []string{"nginx"}}, {Name: "redis", Outcome: wasReset}},
		Verdict:   judge(evidenceOf(refuses("no-upgrade", 426, listener), first(nginx))),
	}
	var out, progress bytes.Buffer
	v := NewView(&out, &progress, false, true)
	v.Progress("names")
	v.Done()
	v.Print(r)
	require.Equal(t, clearLine+"… names"+clearLine, progress.String())
	require.Contains(t, out.String(), "\x1b[31mFAIL\x1b[0m  upgrade")
	require.Contains(t, out.String(), "    proxy_set_header Upgrade $http_upgrade;\n")
	require.Contains(t, out.String(), "`preflight config nginx --path /pg --backend HOST:PORT` prints the whole file")

	out.Reset()
	progress.Reset()
	v = NewView(&out, &progress, true, false)
	v.Progress("names")
	v.Done()
	v.Print(r)
	require.Empty(t, progress.String())
	require.NotContains(t, out.String(), "\x1b")
	require.Contains(t, out.String(), "    get                   0.0 ms  200 OK, passed by nginx\n    redis                 0.0 ms  the connection is reset\n")
}
