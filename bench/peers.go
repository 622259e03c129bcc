package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/wire"
	"github.com/soheilhy/cmux"
)

// A peer is a way to open a connection: what is between Accept or Dial and the
// application.
type peer struct {
	name string
	does string // for the reader of the report
	// listen accepts at a free loopback address until the process ends. It calls
	// handle for each connection after its handshake, in a goroutine of its own.
	listen func(s *site, handle func(net.Conn)) (address string, err error)
	// dialer returns a function that dials and performs the handshake.
	dialer func(s *site) (dialFunc, error)
}

type dialFunc func(ctx context.Context, address string) (net.Conn, error)

// The names of peers with which others are compared.
const (
	bareTCP = "bare TCP"
	ours    = "preflight"
	plain   = "preflight, plain client"
	byHand  = "net/http Hijack + ReadResponse"
	ourNoop = "preflight, no-op telemetry"
	ourSDK  = "preflight, OpenTelemetry SDK"
	coderWS = "coder/websocket NetConn"

	gorillaWS = "gorilla/websocket"
	gobwasWS  = "gobwas/ws"

	goTLS    = "crypto/tls 1.3"
	proxyHdr = "go-proxyproto v2"
	cmuxHTTP = "cmux, by a header field"
)

// peers are the peers with a handshake. All are compared with the first one.
var peers = append([]*peer{
	{bareTCP, "the same bytes both ways and no parsing: the floor", listenTCP, dialTCP},
	{ours, "PreflightListener and PreflightDialer", listenPreflight(nil), dialPreflight(nil)},
	{plain, "bare TCP clients on a PreflightListener, with the floor's bytes", listenPlain, dialOther},
	{byHand, "what people write by hand: Request.Write and ReadResponse, Hijack", listenNetHTTP, dialNetHTTP},
	{coderWS, "WebSocket as a net.Conn", listenCoder, dialCoder},
	{gorillaWS, "WebSocket, with our own Read and Write over its messages", listenGorilla, dialGorilla},
	{proxyHdr, "the floor's bytes behind a PROXY header", listenProxyProto, dialProxyProto},
	{cmuxHTTP, "the floor's bytes, sorted by the Upgrade field", listenCmux, dialTCP},
	{goTLS, "TLS without resumption, and nothing else", listenTLS, dialTLS},
}, heavyPeers...)

// telemetryPeers are variants that are compared with ours.
var telemetryPeers = []*peer{
	{ourNoop, "the no-op providers of OpenTelemetry", listenPreflight(noopTelemetry), dialPreflight(noopTelemetry)},
	{ourSDK, "its SDK: every span sampled and batched to nowhere, metrics", listenPreflight(sdkTelemetry), dialPreflight(sdkTelemetry)},
}

func names(of []*peer) []string {
	var n []string
	for _, p := range of {
		n = append(n, p.name)
	}
	return n
}

func peerNamed(name string) (*peer, error) {
	all := append(slices.Concat(peers, telemetryPeers, framedPeers, tlsPeers, resumptionPeers, churnPeers), timed, waitingPeer, straight)
	i := slices.IndexFunc(all, func(p *peer) bool { return p.name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no peer %q", name)
	}
	return all[i], nil
}

// The target of each client, and the fields that it sends besides the upgrade itself.
const target = "/amps/json"

var fields = http.Header{
	"Authorization": {"Bearer 0123456789abcdef"},
	"User-Agent":    {"bench/1"},
	"X-Request-Id":  {"7d444840-9dc0-11d1-b245-5ffdce74fad2"},
}

// request is what preflight sends to address, and switching is its answer.
func request(address string) []byte { return requestOf(address, fields) }

func requestOf(address string, fields http.Header) []byte {
	carriers := []preflight.Carrier{preflight.CarrierUpgrade, preflight.CarrierWebSocket}
	return wire.AppendFields(wire.AppendRequest(nil, target, address, &rawTerms, "", carriers), fields)
}

var rawTerms = wire.Terms{Protocol: "tcp"}

var switching = wire.AppendSwitching(nil, rawTerms, "", nil)

// other is of the length of the request, and the beginning of a protocol that is not HTTP.
func other(address string) []byte {
	b := request(address)
	b[0] = 0
	return b
}

// heads are the buffers of those who do not parse.
var heads = sync.Pool{New: func() any { return new([1 << 10]byte) }}

// floorServer reads until the end of the head, and answers. It looks for that end only at
// the end of the data.
func floorServer(c net.Conn) error {
	b := heads.Get().(*[1 << 10]byte)
	defer heads.Put(b)
	for n := 0; !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")); {
		m, err := c.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
	}
	_, err := c.Write(switching)
	return err
}

// floorClient sends a prepared request, and reads as many bytes as the answer
// has.
func floorClient(c net.Conn, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	b := heads.Get().(*[1 << 10]byte)
	defer heads.Put(b)
	for n := 0; n < len(switching); {
		m, err := c.Read(b[n:len(switching)])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// accept calls handle for each connection of l behind the exchange of the floor.
func accept(l net.Listener, handle func(net.Conn)) {
	acceptAll(l, func(c net.Conn) {
		if floorServer(c) != nil {
			c.Close()
			return
		}
		handle(c)
	})
}

func acceptAll(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err) // a rate without all connections would be wrong
		}
		go handle(c)
	}
}

func listenLoopback() (net.Listener, error) { return net.Listen("tcp4", "127.0.0.1:0") }

func listenTCP(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	go accept(l, handle)
	return l.Addr().String(), nil
}

// dialFloor dials, and sends the request that prepare has made from the address once.
func dialFloor(s *site, prepare func(address string) []byte) dialFunc {
	return dialBy(s.net, prepare, floorClient)
}

// dialBy is dialFloor with another dialer and another exchange.
func dialBy(d *net.Dialer, prepare func(address string) []byte, exchange func(c net.Conn, request []byte) error) dialFunc {
	var prepared sync.Map
	return func(ctx context.Context, address string) (net.Conn, error) {
		b, ok := prepared.Load(address)
		if !ok {
			b, _ = prepared.LoadOrStore(address, prepare(address))
		}
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if err := exchange(c, b.([]byte)); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
}

func dialTCP(s *site) (dialFunc, error)   { return dialFloor(s, request), nil }
func dialOther(s *site) (dialFunc, error) { return dialFloor(s, other), nil }

// long is longer than any measurement. No stuck handshake may time out.
const long = time.Hour

func preflightListener(telemetry func() *preflight.Telemetry) (*preflight.PreflightListener, error) {
	l, err := listenLoopback()
	if err != nil {
		return nil, err
	}
	p := &preflight.PreflightListener{Listener: l, HandshakeTimeout: long, MaxPending: 1 << 20}
	if telemetry != nil {
		p.Telemetry = telemetry()
	}
	return p, nil
}

func listenPreflight(telemetry func() *preflight.Telemetry) func(*site, func(net.Conn)) (string, error) {
	return func(_ *site, handle func(net.Conn)) (string, error) {
		l, err := preflightListener(telemetry)
		if err != nil {
			return "", err
		}
		go acceptAll(l, handle)
		return l.Addr().String(), nil
	}
}

func listenPlain(_ *site, handle func(net.Conn)) (string, error) {
	l, err := preflightListener(nil)
	if err != nil {
		return "", err
	}
	go accept(l, handle)
	return l.Addr().String(), nil
}

func dialPreflight(telemetry func() *preflight.Telemetry) func(*site) (dialFunc, error) {
	return func(s *site) (dialFunc, error) {
		d := &preflight.PreflightDialer{NetDialer: s.net, Path: target, Header: fields}
		if telemetry != nil {
			d.Telemetry = telemetry()
		}
		return func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}, nil
	}
}

func listenProxyProto(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	go accept(&proxyproto.Listener{Listener: l}, handle)
	return l.Addr().String(), nil
}

func dialProxyProto(s *site) (dialFunc, error) {
	from := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1024}
	header, err := proxyproto.HeaderProxyFromAddrs(2, from, from).Format()
	if err != nil {
		return nil, err
	}
	return dialFloor(s, func(address string) []byte { return append(header, request(address)...) }), nil
}

func listenCmux(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	m := cmux.New(l)
	go accept(m.Match(cmux.HTTP1HeaderField("Upgrade", "tcp")), handle)
	go func() { log.Fatal(m.Serve()) }()
	return l.Addr().String(), nil
}

func listenTLS(s *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	config, err := serverTLS(s, ecdsaKey)
	if err != nil {
		return "", err
	}
	go acceptAll(tls.NewListener(l, config), handle)
	return l.Addr().String(), nil
}

func dialTLS(s *site) (dialFunc, error) {
	config, err := clientTLS(s, tls.VersionTLS13, false)
	if err != nil {
		return nil, err
	}
	d := &tls.Dialer{NetDialer: s.net, Config: config}
	return func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	}, nil
}
