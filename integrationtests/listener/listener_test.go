package listener_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestListenerConfiguration(t *testing.T) {
	certified, _ := testkit.NamedTLSConfigs(t)
	for _, tt := range []struct {
		name string
		l    *preflight.PreflightListener
	}{
		{"HandshakeTimeout", &preflight.PreflightListener{HandshakeTimeout: -1}},
		{"HandshakeTimeout is 10ns, and must be 1ms at least", &preflight.PreflightListener{HandshakeTimeout: 10}},
		{"IdleTimeout is 60ns, and must be 1ms at least", &preflight.PreflightListener{IdleTimeout: 60}},
		{"PlainAfter", &preflight.PreflightListener{PlainAfter: -1}},
		{"PlainAfter is 200ns, and must be 1ms at least", &preflight.PreflightListener{PlainAfter: 200}},
		{"MaxHeaderBytes", &preflight.PreflightListener{MaxHeaderBytes: -1}},
		{"MaxPending", &preflight.PreflightListener{MaxPending: -1}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{""}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"tcp", "a b"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"a,b"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"tcp/"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"/1"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"foo/1/2"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"tcp\r\nX: y"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"tçp"}}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{}, TLSConfig: certified}},
		{"Protocols", &preflight.PreflightListener{Protocols: []string{"tcp", "WebSocket"}}},
		{"AllowPlain", &preflight.PreflightListener{RequireUpgrade: true, AllowPlain: true}},
		{"PlainAfter", &preflight.PreflightListener{RequireUpgrade: true, PlainAfter: time.Second}},
		{"RequireUpgrade", &preflight.PreflightListener{RequireUpgrade: true, AllowPlain: true, Authorize: testkit.AuthorizeAll}},
		{"RequireUpgrade", &preflight.PreflightListener{RequireUpgrade: true, PlainAfter: time.Second, AllowPlain: true}},
		{"TLSConfig", &preflight.PreflightListener{TLSConfig: new(tls.Config)}},
		{"TLSConfig", &preflight.PreflightListener{TLSConfig: &tls.Config{Certificates: []tls.Certificate{}}}},
		{"TrustedProxies[0] is an invalid netip.Prefix (zero", &preflight.PreflightListener{TrustedProxies: make([]netip.Prefix, 1)}},
		{"TrustedProxies", &preflight.PreflightListener{TrustedProxies: []netip.Prefix{{}, netip.MustParsePrefix("::/0")}}},
		{"TrustedProxies", &preflight.PreflightListener{ClientAddrHeader: "X-Real-IP"}},
		{"ClientAddrHeader", &preflight.PreflightListener{ClientAddrHeader: "X-Real-IP", TrustedProxies: []netip.Prefix{}}},
		{"ClientAddrHeader", &preflight.PreflightListener{ClientAddrHeader: "X-Real IP", TrustedProxies: testkit.Prefixes("::/0")}},
		{"ClientAddrHeader", &preflight.PreflightListener{ClientAddrHeader: "X-Real-IP:", TrustedProxies: testkit.Prefixes("::/0")}},
		{"ClientAddrHeader", &preflight.PreflightListener{ClientAddrHeader: " ", TrustedProxies: testkit.Prefixes("::/0")}},
	} {
		t.Run(fmt.Sprintf("%s %q", tt.name, tt.l.Protocols), func(t *testing.T) {
			n := testkit.NewNetwork()
			n.Dial(t)
			tt.l.Listener = n
			for range 2 {
				c, err := tt.l.Accept()
				require.ErrorContains(t, err, "preflight: ")
				require.ErrorContains(t, err, tt.name, "the error names the field")
				require.Nil(t, c)
			}
			require.Zero(t, n.Calls.Load(), "the listener accepts no connection that it cannot serve")
			require.NoError(t, tt.l.Close())
		})
	}
}

// Without a wrapped listener, connections come through ServeHTTP.
func TestListenerWithoutListener(t *testing.T) {
	var l preflight.PreflightListener
	require.Equal(t, "preflight", l.Addr().Network())
	require.Equal(t, "preflight", l.Addr().String())
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	require.NoError(t, l.Close())
	require.Equal(t, net.ErrClosed, <-accepted)
}

func TestListenerIsAListener(t *testing.T) {
	inner := testkit.ListenTCP(t)
	l := &preflight.PreflightListener{Listener: inner}
	require.Equal(t, inner.Addr(), l.Addr())

	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result)
	for range 3 {
		go func() {
			c, err := l.Accept()
			results <- result{c, err}
		}()
	}
	client, _ := testkit.Upgraded(t, l, testkit.Request())
	first := <-results
	require.NoError(t, first.err)
	require.IsType(t, &preflight.Conn{}, first.c)
	defer first.c.Close()

	require.NoError(t, l.Close())
	for range 2 {
		r := <-results
		require.ErrorIs(t, r.err, net.ErrClosed)
		require.True(t, r.c == nil, "a typed nil is no error")
	}
	testkit.Talk(t, client, first.c)
	for range 2 {
		c, err := l.Accept()
		require.Equal(t, net.ErrClosed, err)
		require.Nil(t, c)
	}
	if err := l.Close(); err != nil {
		require.ErrorIs(t, err, net.ErrClosed)
	}
	_, err := net.Dial("tcp", inner.Addr().String())
	require.Error(t, err, "the wrapped listener is closed")
}

func TestListenerClosedBeforeAccept(t *testing.T) {
	n := testkit.NewNetwork()
	n.Dial(t)
	l := &preflight.PreflightListener{Listener: n}
	require.NoError(t, l.Close())
	_, err := l.Accept()
	require.Equal(t, net.ErrClosed, err)
	require.Zero(t, n.Calls.Load())
}

// Accept starts the acceptor. A listener that was never used has nothing to
// end.
func TestListenerStartsWithAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := &preflight.PreflightListener{Listener: n}
		require.Equal(t, testkit.NetworkAddr, l.Addr())
		synctest.Wait()
		require.Zero(t, n.Calls.Load())
		// No Close here: a goroutine that remains ends the bubble with a panic.
	})
}

func TestListenerProtocols(t *testing.T) {
	for _, tt := range []struct {
		name      string
		protocols []string
		upgrade   string // field lines
		want      string // "" is a 426
	}{
		{"default", nil, "Upgrade: tcp", "tcp"},
		{"case of the client", nil, "Upgrade: TCP", "tcp"},
		{"case of the server", []string{"Foo"}, "Upgrade: foo", "Foo"},
		{"tcps is in the default", nil, "Upgrade: tcps", "tcps"},
		{"the order of Protocols decides", []string{"b", "a"}, "Upgrade: a, b", "b"},
		{"the other order of Protocols", []string{"a", "b"}, "Upgrade: a, b", "a"},
		{"over repeated fields", []string{"b", "a"}, "Upgrade: a\r\nUpgrade: c\r\nUpgrade: b", "b"},
		{"the second best", []string{"x", "a"}, "Upgrade: c,, a ,", "a"},
		{"version", []string{"foo/1"}, "Upgrade: foo/1", "foo/1"},
		{"another version", []string{"foo/1"}, "Upgrade: foo/2", ""},
		{"no version", []string{"foo/1"}, "Upgrade: foo", ""},
		{"a version that is not served", []string{"foo"}, "Upgrade: foo/1", ""},
		{"versions by preference", []string{"foo/2", "foo/1"}, "Upgrade: foo/1, foo/2", "foo/2"},
		{"every character of a token", []string{"x!#$%&'*+-.^_`|~9"}, "Upgrade: X!#$%&'*+-.^_`|~9", "x!#$%&'*+-.^_`|~9"},
		{"tcp is no longer served", []string{"amps"}, "Upgrade: tcp", ""},
		{"a prefix does not match", nil, "Upgrade: tc", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{Protocols: tt.protocols})
			accepted := testkit.AcceptAll(t, l)
			request := "GET /t HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n" + tt.upgrade + "\r\n\r\n"
			if tt.want == "" {
				a := testkit.Refused(t, l, request)
				require.Equal(t, http.StatusUpgradeRequired, a.StatusCode)
				served := tt.protocols
				if served == nil {
					served = []string{"tcp", "tcps"}
				}
				require.Equal(t, strings.Join(served, ", ")+", websocket", a.Header.Get("Upgrade"), "RFC 9110 §15.5.22")
				require.Contains(t, a.Raw, "\r\nConnection: close, Upgrade\r\n", "RFC 9110 §7.8")
				require.Empty(t, accepted)
				return
			}
			c, a := testkit.Upgraded(t, l, request)
			require.Equal(t, []string{tt.want}, a.Header["Upgrade"])
			require.Equal(t, []string{"Upgrade"}, a.Header["Connection"])
			conn := testkit.NextConn(t, accepted)
			require.Equal(t, tt.want, conn.Response().Header.Get("Upgrade"))
			require.Equal(t, http.StatusSwitchingProtocols, conn.Response().StatusCode)
			testkit.Talk(t, c, conn)
		})
	}
}

// Bytes that arrive together with the head are the first data of the tunnel,
// for every place where the head may end in the buffers.
func TestListenerKeepsBytesAfterTheHead(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{})
	accepted := testkit.AcceptAll(t, l)
	for _, size := range []int{200, 511, 512, 513, 4095, 4096, 4097, 16<<10 - 1, 16 << 10} {
		head := testkit.Request("X: ")
		head = testkit.Request("X: " + strings.Repeat("x", size-len(head)))
		require.Len(t, head, size)
		for _, data := range []string{"", "d", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("data", 10_000)} {
			c, _ := testkit.Upgraded(t, l, head+data)
			require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
			got, err := io.ReadAll(testkit.NextConn(t, accepted))
			require.NoError(t, err)
			require.Equal(t, data, string(got))
		}
	}
	a := testkit.Refused(t, l, testkit.Request("X: "+strings.Repeat("x", 16<<10)))
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, a.StatusCode)
}

func TestListenerMaxHeaderBytes(t *testing.T) {
	head := testkit.Request()
	for _, tt := range []struct {
		name, request string
		max, want     int
	}{
		{"fits", head, len(head), 101},
		{"a byte too long", head, len(head) - 1, 431},
		{"the data of the tunnel does not count", head + "data", len(head), 101},
		{"long line", "GET /" + strings.Repeat("x", 100), 64, 414},
		{"long line of a URI", "GET http://h/" + strings.Repeat("x", 100), 64, 414},
		{"long line after the version", "GET / HTTP/1.1" + strings.Repeat("x", 100), 64, 414},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := testkit.Listen(t, &preflight.PreflightListener{MaxHeaderBytes: tt.max})
			testkit.AcceptAll(t, l)
			if tt.want == 101 {
				testkit.Upgraded(t, l, tt.request)
				return
			}
			require.Equal(t, tt.want, testkit.Refused(t, l, tt.request).StatusCode)
		})
	}
}

// Errors of the wrapped listener belong to the caller, who decides whether to
// retry. They are returned unchanged and once each, and the acceptor does not
// call the wrapped listener again before the caller does.
func TestListenerInnerErrors(t *testing.T) {
	errs := []error{
		testkit.TemporaryError{Err: testkit.ErrOther},
		&net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)},
		net.ErrClosed,
		io.EOF,
		testkit.ErrOther,
		testkit.ErrOther,
	}
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		for _, err := range errs {
			n.Backlog <- err
		}
		for i, want := range errs {
			c, err := l.Accept()
			require.True(t, c == nil, "a typed nil is no error")
			require.True(t, err == want, "%v, not %v", err, want) // not errors.Is: the very value
			time.Sleep(time.Hour)
			require.LessOrEqual(t, n.Calls.Load(), int64(i+2), "the acceptor pauses as long as the caller")
		}
		// Connections come between the errors.
		good := n.Dial(t)
		answer := good.Ask(testkit.Request())
		n.Backlog <- errs[1]
		got := map[error]int{}
		for range 2 {
			c, err := l.Accept()
			got[err]++
			if err == nil {
				require.Equal(t, 101, (<-answer).StatusCode)
				testkit.Talk(t, good, c)
			}
		}
		require.Equal(t, map[error]int{nil: 1, errs[1]: 1}, got)
	})
}

// If only the wrapped listener is closed, every Accept returns its error, and
// the wrapped Accept is called no more often than Accept. Handshakes that have
// begun continue until Close.
func TestListenerInnerClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		testkit.CloseOnce(t, n, l)
		finished, pending := n.Dial(t), n.Dial(t)
		answer := finished.Ask(testkit.Request())
		pending.Send(t, testkit.Request()[:20])
		synctest.Wait()
		require.NoError(t, n.Close())
		for closed := 0; closed < 5; {
			c, err := l.Accept()
			if err != nil {
				require.True(t, err == net.ErrClosed && c == nil, "%v", err)
				closed++
				continue
			}
			require.Equal(t, 101, (<-answer).StatusCode)
			testkit.Talk(t, finished, c)
		}
		require.False(t, pending.Server.Closed.Load())
		time.Sleep(time.Hour)
		require.LessOrEqual(t, n.Calls.Load(), int64(3+6))
		require.NoError(t, l.Close())
	})
}

func TestListenerUnderHTTPServerSurvivesInnerErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testkit.NewNetwork()
		l := testkit.Listen(t, &preflight.PreflightListener{Listener: n})
		server := &http.Server{
			Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }),
			ErrorLog: log.New(io.Discard, "", 0),
		}
		served := make(chan error)
		go func() { served <- server.Serve(l) }()
		full := &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		for range 5 {
			n.Backlog <- full
		}
		c := n.Dial(t)
		require.Equal(t, 101, (<-c.Ask(testkit.Request())).StatusCode)
		a := <-c.Ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		require.NoError(t, a.Err)
		require.Equal(t, "hello", a.Text)

		// While the errors last, net/http pauses between its calls as usual.
		before := n.Calls.Load()
		for range 100 {
			n.Backlog <- full
		}
		time.Sleep(2 * time.Second)
		require.Less(t, n.Calls.Load()-before, int64(15))
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// Clients that stall at any step do not delay others.
func TestListenerStuckClients(t *testing.T) {
	inAuthorize := make(chan struct{})
	l := testkit.Listen(t, &preflight.PreflightListener{
		AllowPlain: true,
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Stick") != "" {
				inAuthorize <- struct{}{}
				<-r.Context().Done()
			}
			return nil, nil
		},
	})
	accepted := testkit.AcceptAll(t, l)
	for i := range 200 {
		c := testkit.DialClient(t, l)
		switch i % 4 {
		case 0: // silent
		case 1:
			c.Send(t, "GET")
		case 2:
			c.Send(t, "GET / HTTP/1.1\r\nHost:")
		case 3:
			c.Send(t, testkit.Request("Stick: here"))
			<-inAuthorize
		}
	}
	for range 20 {
		c, _ := testkit.Upgraded(t, l, testkit.Request())
		testkit.Talk(t, c, testkit.NextConn(t, accepted))
		plain := testkit.DialClient(t, l)
		plain.Send(t, "\x00")
		got := make([]byte, 1)
		_, err := io.ReadFull(testkit.NextConn(t, accepted), got)
		require.NoError(t, err)
	}
	require.Empty(t, accepted)
}

// Several goroutines may call Accept at once, like a server with several loops.
func TestListenerConcurrentAccept(t *testing.T) {
	l := testkit.Listen(t, &preflight.PreflightListener{})
	seen := make(chan string, 200)
	var loops sync.WaitGroup
	for range 4 {
		loops.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				seen <- c.(*preflight.Conn).Request().URL.Path
				c.Close()
			}
		})
	}
	want := map[string]bool{}
	for i := range 100 {
		path := fmt.Sprintf("/%d", i)
		want[path] = true
		testkit.Upgraded(t, l, strings.Replace(testkit.Request(), "/t", path, 1))
	}
	for range 100 {
		path := <-seen
		require.True(t, want[path], "%s came twice", path)
		delete(want, path)
	}
	require.NoError(t, l.Close())
	loops.Wait()
	require.Empty(t, seen)
}
