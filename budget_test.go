//go:build !race

// Budgets, and the moments in which a handshake and its bounds meet. The race detector
// allocates on its own account, and the latter need one goroutine alone.

package preflight

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// budgetConn is a connection in memory, which costs nothing: it reads in, then
// EOF, and counts what is written.
type budgetConn struct {
	net.Conn
	in            string
	read, written int
}

func (c *budgetConn) Read(b []byte) (int, error) {
	n := copy(b, c.in[c.read:])
	if c.read += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *budgetConn) Write(b []byte) (int, error) {
	c.written += len(b)
	return len(b), nil
}

func (c *budgetConn) Close() error                     { return nil }
func (c *budgetConn) LocalAddr() net.Addr              { return budgetAddr }
func (c *budgetConn) RemoteAddr() net.Addr             { return budgetAddr }
func (c *budgetConn) SetDeadline(time.Time) error      { return nil }
func (c *budgetConn) SetReadDeadline(time.Time) error  { return nil }
func (c *budgetConn) SetWriteDeadline(time.Time) error { return nil }

var budgetAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}

// What a client behind a reverse proxy sends, and what comes back through it.
const (
	budgetRequest = "GET /amps/json HTTP/1.1\r\nHost: edge.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n" +
		"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n"
	budgetAnswer = "HTTP/1.1 101 Switching Protocols\r\nServer: nginx\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n" +
		"Connection: upgrade\r\nUpgrade: tcp\r\n\r\n"
)

// budgetRuns is large, so that an emptied pool does not count: AllocsPerRun
// returns the average, rounded down.
const budgetRuns = 1000

// budgetCheck fails if a call of f allocates more often than limit says.
func budgetCheck(t *testing.T, limit float64, f func()) {
	t.Helper()
	n := testing.AllocsPerRun(budgetRuns, f)
	t.Logf("%v allocations of %v", n, limit)
	require.LessOrEqual(t, n, limit)
}

// budgetContexts are the kinds of context, and what they cost: a watch is the
// registration and its function.
func budgetContexts(t *testing.T) map[string]struct {
	ctx  context.Context
	cost float64
} {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return map[string]struct {
		ctx  context.Context
		cost float64
	}{"background": {context.Background(), 0}, "cancellable": {ctx, 2}}
}

// TestBudgetServerExchange: the handshake itself, into the caller's memory.
func TestBudgetServerExchange(t *testing.T) {
	for name, of := range budgetContexts(t) {
		t.Run(name, func(t *testing.T) {
			c := &budgetConn{in: budgetRequest}
			dst := make([]byte, 0, 1<<10)
			budgetCheck(t, of.cost, func() { budgetExchange(t, of.ctx, c, dst) })
		})
	}
}

// BenchmarkServerExchange is that in time, beside what net/http takes, both with a
// deadline; the budget is a fifth of it.
func BenchmarkServerExchange(b *testing.B) {
	c := &budgetConn{in: budgetRequest}
	answer := zeroPolicy.answers[0].raw[0]
	b.Run("preflight", func(b *testing.B) {
		dst := make([]byte, 0, 1<<10)
		for b.Loop() {
			budgetExchange(b, context.Background(), c, dst)
		}
	})
	b.Run("net/http", func(b *testing.B) {
		for b.Loop() {
			c.read = 0
			c.SetDeadline(time.Now().Add(defaultTimeout))
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil || r.Header.Get("Upgrade") != defaultToken {
				b.Fatal("no upgrade request", err)
			}
			c.Write(answer)
			c.SetDeadline(time.Time{})
		}
	})
}

// budgetExchange is one handshake on c, in the server's role.
func budgetExchange(tb testing.TB, ctx context.Context, c *budgetConn, dst []byte) {
	c.read, c.written = 0, 0
	x := newExchange(c)
	if x.begin(ctx, time.Now().Add(defaultTimeout)) != nil {
		tb.Error("begin failed")
	}
	_, err := x.serve(&zeroPolicy, dst)
	if x.end(err) != nil || c.written == 0 {
		tb.Error("the exchange failed")
	}
	x.free()
}

// TestBudgetServer: the Conn, and the head that it keeps or the bytes that
// arrived behind it.
func TestBudgetServer(t *testing.T) {
	for name, in := range map[string]struct {
		in   string
		cost float64
	}{
		"upgrade":             {budgetRequest, 2},
		"upgrade, early data": {budgetRequest + "early", 3},
		"plain":               {"\x00early", 2},
	} {
		for ctxName, of := range budgetContexts(t) {
			t.Run(name+"/"+ctxName, func(t *testing.T) {
				c := &budgetConn{in: in.in}
				budgetCheck(t, in.cost+of.cost, func() {
					c.read = 0
					if _, err := Server(of.ctx, c); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// TestBudgetClient: the client's part, of which the request is built each time.
func TestBudgetClient(t *testing.T) {
	for name, header := range map[string]map[string][]string{
		"no fields": nil,
		"fields":    {"Authorization": {"Bearer 0123456789abcdef"}, "X-Client": {"a", "b"}},
	} {
		for ctxName, of := range budgetContexts(t) {
			t.Run(name+"/"+ctxName, func(t *testing.T) {
				u := &upgrade{target: "/amps/json", host: "edge.example", protocol: "tcp", carriers: dialCarriers, header: header}
				c := &budgetConn{in: budgetAnswer}
				budgetCheck(t, 4+of.cost, func() {
					c.read = 0
					if _, _, err := u.do(of.ctx, c, time.Now().Add(defaultTimeout), nil); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// TestCounts requires the exact figures in docs/counts.txt, so that no change of them goes
// unnoticed, for better or worse. They do not depend on the machine or its load.
func TestCounts(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Logf("the sizes of %s are its own", runtime.GOARCH)
		return
	}
	var b strings.Builder
	b.WriteString("# Figures of one handshake in memory, by TestCounts. `go test -run TestCounts -update .` writes them anew.\n" +
		"# Bytes are those of the size classes, rounded down to 16.\n\n")
	count := func(what string, c *countingConn, f func()) {
		f()
		var before, after runtime.MemStats
		*c = countingConn{budgetConn: budgetConn{in: c.in}}
		f()
		calls := *c
		runtime.ReadMemStats(&before)
		allocations := testing.AllocsPerRun(budgetRuns, f)
		runtime.ReadMemStats(&after)
		bytes := (after.TotalAlloc - before.TotalAlloc) / (budgetRuns + 1) &^ 15
		fmt.Fprintf(&b, "%-36s %2.0f allocations, %4d bytes, %d reads, %d writes, %d deadlines\n",
			what, allocations, bytes, calls.reads, calls.writes, calls.deadlines)
	}
	server := func(what, in string) {
		c := &countingConn{budgetConn: budgetConn{in: in}}
		count(what, c, func() {
			c.read = 0
			if _, err := Server(context.Background(), c); err != nil {
				t.Error(err)
			}
		})
	}
	server("Server, upgrade", budgetRequest)
	server("Server, upgrade and early data", budgetRequest+"early")
	server("Server, plain", "\x00early")
	dial := func(what string, d *PreflightDialer, answer string) {
		c := &countingConn{budgetConn: budgetConn{in: answer}}
		d.NetDialer, d.Host, d.KeepAlivePeriod = budgetDialer{c}, "edge.example", -1
		count(what, c, func() {
			c.read = 0
			if _, err := d.Dial("tcp", "edge.example:80"); err != nil {
				t.Error(err)
			}
		})
	}
	dial("Dial", new(PreflightDialer), budgetAnswer)
	dial("Dial, with Header", &PreflightDialer{Header: http.Header{"Authorization": {"Bearer 0123456789abcdef"}}}, budgetAnswer)
	dial("Dial, framed", &PreflightDialer{Carriers: []Carrier{CarrierFramed}}, strings.TrimSuffix(budgetAnswer, "\r\n")+"Preflight-Framing: capsule\r\n\r\n")
	fmt.Fprintf(&b, "\nsize of a handshake                 %4d bytes\nsize of a Conn                      %4d bytes\nsize of a handshake's buffer        %4d bytes, none while it waits on TCP\n",
		unsafe.Sizeof(exchange{}), unsafe.Sizeof(Conn{}), firstRead)

	const file = "docs/counts.txt"
	if flag.Lookup("update").Value.String() == "true" { // of TestAPI
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String(), "run `go test -run TestCounts -update .` if the change is meant")
}

// A countingConn counts the calls of a budgetConn.
type countingConn struct {
	budgetConn
	reads, writes, deadlines int
}

func (c *countingConn) Read(b []byte) (int, error) {
	c.reads++
	return c.budgetConn.Read(b)
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes++
	return c.budgetConn.Write(b)
}

func (c *countingConn) SetDeadline(time.Time) error {
	c.deadlines++
	return nil
}

func (c *countingConn) SetReadDeadline(time.Time) error {
	c.deadlines++
	return nil
}

// TestBudgetDrain: what follows a refused head is read in large pieces, although the buffer of a
// client on a TCP connection that stalled in its head is only as large as what it has sent.
func TestBudgetDrain(t *testing.T) {
	c := &countingConn{budgetConn: budgetConn{in: strings.Repeat("x", 2*drainBytes)}}
	for _, held := range []bool{true, false} {
		*c = countingConn{budgetConn: budgetConn{in: c.in}}
		x := newExchange(c)
		x.ctx = context.Background()
		x.buf = append(x.buf, 'G')
		x.keep()
		if !held {
			x.release()
		}
		require.Error(t, x.refuse(refusal(http.StatusRequestTimeout, wire.CodeTooSlow, "too slow"), &zeroPolicy))
		x.free()
		require.LessOrEqual(t, c.reads, drainBytes/firstRead)
	}
}

// TestBudgetConnect: what it costs that HandshakeTimeout bounds the connect to an
// IP address. The budget of a dialed connection leaves no more room.
func TestBudgetConnect(t *testing.T) {
	allocations := func(dial func(address string) (net.Conn, error)) float64 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		address := l.Addr().String()
		// They wait in the backlog: whoever accepts allocates too.
		return testing.AllocsPerRun(100, func() {
			c, err := dial(address)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
	next := new(net.Dialer)
	bare := allocations(func(address string) (net.Conn, error) {
		return next.DialContext(context.Background(), "tcp", address)
	})
	for name, timeout := range map[string]time.Duration{"bounded": 0, "not bounded": -1} {
		d := &PreflightDialer{NetDialer: next, HandshakeTimeout: timeout}
		ours := allocations(func(address string) (net.Conn, error) {
			return d.connect(context.Background(), &route{network: "tcp", address: address}, nil)
		})
		t.Logf("%s: %v allocations, of package net %v", name, ours, bare)
		require.LessOrEqual(t, ours-bare, 4.0)
	}
}

// TestBudgetDial: a dial by its first carrier, beside what NetDialer costs. What is remembered
// of other dials costs nothing, and a framed tunnel its layer.
func TestBudgetDial(t *testing.T) {
	c := &budgetConn{}
	for name, test := range map[string]struct {
		carriers []Carrier
		answer   string
		limit    float64
	}{
		"default":           {nil, budgetAnswer, 6},
		"nothing to choose": {[]Carrier{CarrierUpgrade}, budgetAnswer, 6},
		"framed":            {[]Carrier{CarrierFramed, CarrierWebSocket}, strings.TrimSuffix(budgetAnswer, "\r\n") + "Preflight-Framing: capsule\r\n\r\n", 7},
	} {
		t.Run(name, func(t *testing.T) {
			d := PreflightDialer{NetDialer: budgetDialer{c}, Host: "edge.example", Carriers: test.carriers, KeepAlivePeriod: -1}
			c.in = test.answer
			budgetCheck(t, test.limit, func() {
				c.read = 0
				if _, err := d.Dial("tcp", "edge.example:80"); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestBudgetStack: a handshake has enough of the 2 KiB with which its goroutine
// begins. To copy them to more would cost it more time than the parsing.
func TestBudgetStack(t *testing.T) {
	if output, alone := budgetAlone(t); !alone {
		t.Log(output)
		return
	}
	const handshakes = 400
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &PreflightListener{Listener: inner}
	defer l.Close()
	go l.Accept() // the first; the others wait for it
	complete := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		require.NoError(t, err)
		_, err = io.WriteString(c, budgetRequest)
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, len(zeroPolicy.answers[0].raw[0])))
		require.NoError(t, err)
		return c
	}
	defer complete().Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range handshakes {
		defer complete().Close()
	}
	runtime.ReadMemStats(&after)
	of := (after.StackInuse - before.StackInuse) / handshakes
	t.Logf("%d bytes", of)
	require.Less(t, of, uint64(3<<10))
}

// TestBudgetWaiters: what a client costs that says nothing, or stops in the middle, beside a
// goroutine that is blocked in Read. The limits leave room for the exchange, and for what has
// arrived.
func TestBudgetWaiters(t *testing.T) {
	reads := func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go c.Read(make([]byte, 1))
		}
	}
	preflights := func(inner net.Listener) {
		l := &PreflightListener{Listener: inner, TLSConfig: &noCertificate, RequireUpgrade: true, HandshakeTimeout: time.Hour}
		l.Accept()
		l.Close()
	}
	long := strings.TrimSuffix(budgetRequest, "\r\n") + strings.Repeat("X-Long: 0123456789abcdef\r\n", 40)
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 250)
	reader := 0
	for _, waiter := range []struct {
		name, sent, in string
		serve          func(net.Listener)
		limit          int // beside a reader
	}{
		{"blocked in Read", "", "net.(*conn).Read(", reads, 0},
		{"silent", "", "await.Read(", preflights, 400},
		{"in the first line", budgetRequest[:10], "await.Read(", preflights, 450},
		{"in the head", budgetRequest[:48], "await.Read(", preflights, 450},
		{"in a long head", long, "await.Read(", preflights, len(long) + 450},
		{"in a ClientHello", hello, "await.Read(", preflights, len(hello) + 450},
	} {
		t.Run(waiter.name, func(t *testing.T) {
			output, alone := budgetAlone(t)
			if alone {
				t.Logf("bytes: %d", budgetWaiters(t, waiter.sent, waiter.in, waiter.serve))
				return
			}
			var of int
			_, after, _ := strings.Cut(output, "bytes: ")
			_, err := fmt.Sscan(after, &of)
			require.NoError(t, err)
			if reader == 0 {
				reader = of
			}
			t.Logf("%d bytes more than a blocked reader of %d", of-reader, reader)
			require.LessOrEqual(t, of-reader, waiter.limit)
		})
	}
}

var noCertificate = tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, io.EOF }}

// budgetWaiters returns the bytes of a client that has sent some bytes, until its goroutine
// waits in the function in.
func budgetWaiters(t *testing.T, sent, in string, serve func(net.Listener)) int {
	const clients = 2000
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(l)
	}()
	dial := func(n int) (conns []net.Conn) {
		for range n {
			c, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			_, err = io.WriteString(c, sent)
			require.NoError(t, err)
			conns = append(conns, c)
		}
		return conns
	}
	stacks := make([]byte, 16<<20)
	wait := func(n int) (m runtime.MemStats) {
		require.Eventually(t, func() bool {
			all := stacks[:runtime.Stack(stacks, true)]
			waiting := 0
			for _, one := range strings.Split(string(all), "\n\n") {
				if strings.Contains(one, "[IO wait") && strings.Contains(one, in) && !strings.Contains(one, "Accept") {
					waiting++
				}
			}
			return waiting == n
		}, time.Minute, 10*time.Millisecond)
		for range 3 { // a sync.Pool keeps what it holds for two collections
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m
	}
	conns := dial(1)
	before := wait(1)
	conns = append(conns, dial(clients)...)
	after := wait(1 + clients)
	l.Close()
	for _, c := range conns {
		c.Close()
	}
	<-served
	runtime.KeepAlive(stacks)
	return int(after.HeapAlloc-before.HeapAlloc+after.StackInuse-before.StackInuse) / clients
}

// budgetAlone runs the test in a process of its own, and returns its output. In that process,
// each goroutine begins with 2 KiB, and none gets smaller. There, budgetAlone returns true.
func budgetAlone(t *testing.T) (output string, alone bool) {
	const runtimeSettings = "adaptivestackstart=0,gcshrinkstackoff=1"
	if os.Getenv("GODEBUG") == runtimeSettings {
		return "", true
	}
	test := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	process := exec.Command(os.Args[0], "-test.run="+test, "-test.v")
	process.Env = append(os.Environ(), "GODEBUG="+runtimeSettings)
	b, err := process.CombinedOutput()
	require.NoError(t, err, string(b))
	return string(b), false
}

// TestBudgetAfterwards: the tunnel costs nothing, whether or not bytes arrived
// with the handshake.
func TestBudgetAfterwards(t *testing.T) {
	for name, early := range map[string]string{"nothing early": "", "early data": "early"} {
		t.Run(name, func(t *testing.T) {
			c := &budgetConn{in: budgetRequest + early}
			conn, err := Server(context.Background(), c)
			require.NoError(t, err)
			b := make([]byte, 64)
			n, _ := conn.Read(b)
			require.Equal(t, early, string(b[:n]))

			c.in = strings.Repeat("x", len(b))
			budgetCheck(t, 0, func() {
				c.read = 0
				if n, err := conn.Read(b); n != len(b) || err != nil {
					t.Error(n, err)
				}
				if n, err := conn.Write(b); n != len(b) || err != nil {
					t.Error(n, err)
				}
			})
		})
	}
	t.Run("while there is early data", func(t *testing.T) {
		c := &budgetConn{in: "\x00" + strings.Repeat("x", 400)}
		conn, err := Server(context.Background(), c)
		require.NoError(t, err)
		b := make([]byte, 1)
		require.Zero(t, testing.AllocsPerRun(200, func() {
			if n, err := conn.Read(b); n != 1 || err != nil {
				t.Error(n, err)
			}
		}))
	})
}

// TestBudgetTelemetry counts what Telemetry costs a handshake if its providers record nothing.
func TestBudgetTelemetry(t *testing.T) {
	noop := &Telemetry{
		TracerProvider: tracenoop.NewTracerProvider(),
		MeterProvider:  metricnoop.NewMeterProvider(),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
	allocations := func(t *testing.T, telemetry *Telemetry, do func(*Telemetry)) float64 {
		t.Helper()
		return testing.AllocsPerRun(budgetRuns, func() { do(telemetry) })
	}
	for name, do := range map[string]func(*Telemetry){
		"server": budgetServe(t),
		"client": budgetDial(t),
	} {
		t.Run(name, func(t *testing.T) {
			off := allocations(t, nil, do)
			on := allocations(t, noop, do)
			t.Logf("%v allocations, %v with providers that do nothing", off, on)
			require.LessOrEqual(t, on-off, 1.0)
		})
	}
}

// budgetServe is a handshake by a listener, and what comes after it.
func budgetServe(t *testing.T) func(*Telemetry) {
	c := &budgetConn{in: budgetRequest}
	l := new(PreflightListener)
	l.prepare()
	t.Cleanup(func() { l.Close() })
	return func(telemetry *Telemetry) {
		c.read, c.written = 0, 0
		l.policy.role = telemetry.serverSide()
		x := newExchange(c)
		x.obs = l.policy.role.begin()
		if x.begin(context.Background(), time.Now().Add(defaultTimeout)) != nil {
			t.Error("begin failed")
		}
		h, err := x.serve(&l.policy, nil)
		if x.end(err) != nil || c.written == 0 {
			t.Error("the exchange failed")
		}
		conn := h.conn(c, nil, x.obs)
		x.obs.handedOn(&h)
		x.free()
		conn.Close()
	}
}

// budgetDial is a dial, and what comes after it.
func budgetDial(t *testing.T) func(*Telemetry) {
	c := &budgetConn{in: budgetAnswer}
	return func(telemetry *Telemetry) {
		c.read = 0
		d := PreflightDialer{NetDialer: budgetDialer{c}, Host: "edge.example", Telemetry: telemetry}
		conn, err := d.Dial("tcp", "edge.example:80")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
}

type budgetDialer struct{ c net.Conn }

func (d budgetDialer) DialContext(context.Context, string, string) (net.Conn, error) { return d.c, nil }

// exchangeConn notes the deadlines that stand.
type exchangeConn struct {
	net.Conn
	read, write time.Time
}

func (c *exchangeConn) SetDeadline(t time.Time) error {
	c.read, c.write = t, t
	return nil
}

func (c *exchangeConn) SetReadDeadline(t time.Time) error {
	c.read = t
	return nil
}

func (c *exchangeConn) Close() error { return nil }

// A new deadline undoes neither an interruption nor an eviction, whatever the
// moment in which it meets them. From outside these moments cannot be chosen.
func TestExchangeDeadlinesUndoNothing(t *testing.T) {
	later := time.Now().Add(time.Hour)
	deadlines := map[string]func(*exchange){
		"begin":           func(x *exchange) { require.NoError(t, x.begin(context.Background(), later)) },
		"setReadDeadline": func(x *exchange) { x.setReadDeadline(later) },
		"setDeadlines":    func(x *exchange) { x.setDeadlines(later) },
		"finishBy":        func(x *exchange) { x.finishBy(later) },
	}
	for name, set := range deadlines {
		for _, tt := range []struct {
			what        string
			end         func(*exchange)
			read, write time.Time
		}{
			{"interrupted", (*exchange).abort, aLongTimeAgo, aLongTimeAgo},
			{"interrupted while it waits", func(x *exchange) { x.startWaiting(); x.abort() }, aLongTimeAgo, aLongTimeAgo},
			{"evicted", func(x *exchange) { x.startWaiting(); require.True(t, x.evict()) }, aLongTimeAgo, time.Time{}},
			{"evicted and interrupted", func(x *exchange) { x.startWaiting(); require.True(t, x.evict()); x.abort(); x.stopWaiting() }, aLongTimeAgo, aLongTimeAgo},
		} {
			t.Run(name+"/"+tt.what, func(t *testing.T) {
				c := new(exchangeConn)
				x := newExchange(c)
				tt.end(x)
				set(x)
				require.Equal(t, tt.read, c.read)
				require.Equal(t, tt.write, c.write)
			})
		}
		t.Run(name+"/evicted, and its bytes came", func(t *testing.T) {
			c := new(exchangeConn)
			x := newExchange(c)
			x.startWaiting()
			require.True(t, x.evict())
			x.stopWaiting()
			set(x)
			require.Equal(t, later, c.read, "for its answer, and what follows")
		})
	}
}

// Only who waits can be evicted, once, and an eviction can be taken back once, but
// for what was interrupted.
func TestExchangeEviction(t *testing.T) {
	c := new(exchangeConn)
	x := newExchange(c)
	x.deadline = time.Now().Add(time.Hour)
	require.False(t, x.evict(), "it does not wait")
	require.False(t, x.undoEviction(), "it was not evicted")
	require.Zero(t, c.read)
	x.startWaiting()
	require.True(t, x.evict())
	require.False(t, x.evict(), "it was evicted already")
	x.stopWaiting()
	require.True(t, x.undoEviction())
	require.Equal(t, x.deadline, c.read)
	require.False(t, x.undoEviction())
	x.startWaiting()
	require.True(t, x.evict())
	x.abort()
	x.stopWaiting()
	require.False(t, x.undoEviction())
	require.Equal(t, aLongTimeAgo, c.read)
}

// A deadline that is left to the listener is set by whatever comes first, and by nothing if the
// handshake is over before.
func TestExchangeUnarmed(t *testing.T) {
	later := time.Now().Add(time.Hour)
	arm := func(x *exchange) {
		x.mu.Lock()
		x.arm()
		x.mu.Unlock()
	}
	end := func(x *exchange) { require.NoError(t, x.end(nil)) }
	evict := func(x *exchange) {
		x.startWaiting()
		require.True(t, x.evict())
	}
	for name, tt := range map[string]struct {
		do          []func(*exchange)
		read, write time.Time
	}{
		"nothing yet":            {nil, time.Time{}, time.Time{}},
		"the sweep":              {[]func(*exchange){arm}, later, later},
		"the end":                {[]func(*exchange){end, arm}, time.Time{}, time.Time{}},
		"the sweep, the end":     {[]func(*exchange){arm, end}, time.Time{}, time.Time{}},
		"an interruption":        {[]func(*exchange){(*exchange).abort, arm}, aLongTimeAgo, aLongTimeAgo},
		"an eviction":            {[]func(*exchange){evict, arm}, aLongTimeAgo, later},
		"an eviction that ended": {[]func(*exchange){evict, func(x *exchange) { require.True(t, x.undoEviction()) }}, later, later},
		"a deadline of reading":  {[]func(*exchange){func(x *exchange) { x.setReadDeadline(aLongTimeAgo) }, arm}, aLongTimeAgo, later},
		"another deadline":       {[]func(*exchange){func(x *exchange) { x.finishBy(aLongTimeAgo) }, arm}, aLongTimeAgo, aLongTimeAgo},
	} {
		t.Run(name, func(t *testing.T) {
			c := new(exchangeConn)
			x := newExchange(c)
			x.unarmed = true
			require.NoError(t, x.begin(context.Background(), later))
			for _, do := range tt.do {
				do(x)
			}
			require.Equal(t, tt.read, c.read)
			require.Equal(t, tt.write, c.write)
		})
	}
	t.Run("the sweep, before it begins", func(t *testing.T) {
		c := new(exchangeConn)
		x := newExchange(c)
		x.unarmed = true
		arm(x)
		require.NoError(t, x.begin(context.Background(), later))
		require.Equal(t, later, c.read)
	})
}

// The listener sets the deadlines of the handshakes on TCP that are still in progress, of each
// once.
func TestExchangeSweep(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &PreflightListener{Listener: inner, RequireUpgrade: true, HandshakeTimeout: time.Hour}
	defer l.Close()
	go l.Accept()
	for range 3 { // each after a sweep
		c, err := net.Dial("tcp", inner.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, budgetRequest[:48])
		require.NoError(t, err)
		var x *exchange
		require.Eventually(t, func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			x = l.pending.oldest.place.prev
			if x == nil || x == &l.pending.oldest {
				return false
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.unarmed && !x.deadline.IsZero() && l.pending.sweeping
		}, 10*time.Second, time.Millisecond)
		x.mu.Lock()
		x.deadline = aLongTimeAgo
		x.mu.Unlock()
		l.sweep()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.ReadAll(c) // it ends, whether the listener has read the bytes by then or not
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

// The end of a handshake does not make one good that was interrupted, and leaves
// its connection as it is.
func TestExchangeEndOfAnInterruptedOne(t *testing.T) {
	c := new(exchangeConn)
	x := newExchange(c)
	require.NoError(t, x.begin(context.Background(), time.Now().Add(time.Hour)))
	x.abort()
	require.ErrorIs(t, x.end(nil), errInterrupted)
	require.Equal(t, aLongTimeAgo, c.read)
	require.Equal(t, aLongTimeAgo, c.write)
}
