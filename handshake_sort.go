package preflight

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight/internal/await"
	"github.com/preflight-go/preflight/internal/wire"
)

// A layer is one of the layers that a connection may have.
type layer uint8

// The layers of a connection, in the order in which they appear on the wire.
const (
	layerBelow layer = iota // a TLS layer that is there already
	layerProxy              // a header of the PROXY protocol
	layerTLS
	layerLine // the first line of an HTTP request, or of any other protocol
	layerHead // the head of an HTTP request
)

// layerPrefix is enough room to recognise every layer, even if MaxHeaderBytes is small.
const layerPrefix = 16

// A sorter classifies what a client speaks, layer by layer.
type sorter struct {
	layer   layer
	sniffer wire.Sniffer // of layerLine
	scanned int          // of layerHead
	rule    *wire.Error  // that the head breaks
	limit   int          // of what may be buffered
	broken  error        // of reading, after which nothing more is read

	// The result: the length of the HTTP head that x.buf begins with, or 0 for
	// a plain connection, with a watch if the client has not said enough to be
	// sure. A reverse proxy may connect long before it has a request to send.
	n     int
	watch *watch
	err   error
}

// sort reads until it is known what the client speaks. While it waits here for a client
// that stalls, the stack of its goroutine is most of the cost. Therefore everything that
// needs more than half of the first 2 KiB of stack is in functions that have returned by
// then, or that are not inlined.
func (x *exchange) sort(p *policy) (n int, w *watch, err error) {
	s := sorter{limit: p.maxHeader}
	if p.tls != nil || p.proxies.Any() {
		s.limit = max(s.limit, layerPrefix)
	}
	for !s.step(x, p) {
		// For its first word on each layer the client has no longer than PlainAfter.
		hasFirstDeadline := len(x.buf) == 0 && p.plainAfter > 0 && !p.refusePlain
		if hasFirstDeadline {
			x.setReadDeadline(x.within(p.plainAfter))
		}
		if c, ok := x.conn.(*net.TCPConn); ok && len(x.buf) < secondRead {
			x.keep()
			var n int
			if n, s.broken = await.Read(c, func() []byte { return x.spare(s.limit) }, x.release); n > 0 {
				x.buf = x.scratch.bytes[:len(x.buf)+n]
			}
		} else {
			s.broken = x.read(s.limit)
		}
		if hasFirstDeadline && s.broken == nil {
			x.setReadDeadline(x.deadline)
		}
	}
	return s.n, s.watch, s.err
}

//go:noinline
func (x *exchange) within(d time.Duration) time.Time { return earlier(x.deadline, time.Now().Add(d)) }

// step proceeds as far as the bytes in x.buf allow, and reports whether sorting is done. A
// layer that is still undecided when nothing more can be read is not present.
//
//go:noinline
func (s *sorter) step(x *exchange, p *policy) (done bool) {
	for {
		var passed bool // on to the next layer
		switch s.layer {
		case layerBelow:
			passed, s.err = true, x.handshakeBelow()
		case layerProxy:
			passed, s.err = s.proxy(x, p)
		case layerTLS:
			passed, s.err = s.tls(x, p)
		case layerLine:
			passed, done = s.line(x, p)
		case layerHead:
			done = s.head(x, p)
		}
		if done || s.err != nil {
			return true
		}
		if !passed {
			return false
		}
		if (s.layer == layerBelow || s.layer == layerTLS) && speaksOther(x.conn) {
			return true
		}
		s.layer++
	}
}

const stagePROXY = "read the PROXY header"

// proxy consumes a header of the PROXY protocol from a trusted proxy, if there is one, and
// uses its address.
func (s *sorter) proxy(x *exchange, p *policy) (passed bool, err error) {
	// The address is asked for only if it is needed: RemoteAddr of a proxyproto.Conn
	// waits for the client.
	if !p.proxies.Any() || !p.proxies.TrustsPeer(x.conn, x.addr()) {
		return true, nil
	}
	m, n := wire.ProxyHeader(x.buf)
	switch {
	case m == wire.No || m == wire.Maybe && s.broken != nil:
		return true, nil
	case n < 0 || n > p.maxHeader || n == 0 && len(x.buf) >= s.limit:
		return false, &stageError{stage: stagePROXY, err: errors.New("it has no end, or is longer than MaxHeaderBytes")}
	case n > 0 && n <= len(x.buf):
		if err := x.readProxyHeader(x.buf[:n]); err != nil {
			return false, &stageError{stage: stagePROXY, err: err}
		}
		x.consume(n)
		return true, nil
	case s.broken != nil:
		return false, &stageError{stage: stagePROXY, err: s.broken}
	}
	return false, nil
}

// tls performs the TLS handshake with a client that speaks TLS first. It waits for the
// whole first record before that, so that a client that stalls in it costs no TLS state.
func (s *sorter) tls(x *exchange, p *policy) (passed bool, err error) {
	if p.tls == nil {
		return true, nil
	}
	m, n := wire.ClientHello(x.buf)
	switch {
	case m == wire.Maybe && s.broken != nil && len(x.buf) > 0:
		return true, x.probeFailure(s.broken, p)
	case m == wire.No || m == wire.Maybe && s.broken != nil:
		return true, nil
	case m == wire.Yes && n <= len(x.buf):
		s.limit = p.maxHeader
		x.pauseWaiting()
		p.progressed(x)
		if err := x.acceptTLS(p); err != nil {
			return false, &stageError{stage: stageTLS, err: err}
		}
		p.waitsForClient(x)
		return true, nil
	case s.broken != nil && ended(s.broken):
		return false, &stageError{stage: stageTLS, err: probeError{s.broken}}
	case s.broken != nil:
		return false, &stageError{stage: stageTLS, err: s.broken}
	case m == wire.Yes:
		s.limit = max(n, p.maxHeader)
	}
	return false, nil
}

// line decides between HTTP and a plain connection.
func (s *sorter) line(x *exchange, p *policy) (passed, done bool) {
	verdict, full := s.sniffer.Next(x.buf), len(x.buf) >= p.maxHeader
	if verdict == wire.More && full {
		if verdict = s.sniffer.AtLimit(); verdict == wire.Plain {
			verdict = wire.Doubt
		}
	}
	switch {
	case verdict == wire.HTTP && s.sniffer.BehindHeader():
		s.err = x.refuseHead(&wire.Error{Status: 400, Offset: -1, Rule: untrustedHeader, Code: wire.CodeProxyHeader}, p)
	case verdict == wire.HTTP:
		x.consume(s.sniffer.EmptyLines())
		return true, false
	case s.broken != nil: // perhaps on a layer below
		s.err = x.readFailed(s.broken, verdict, p)
	case verdict == wire.More:
		return false, false
	case verdict == wire.Doubt && p.refusePlain && !full:
		// It is refused in any case. If it turns out to be HTTP, the answer says why.
		return false, false
	}
	if verdict != wire.Plain {
		// The watch continues where the sniffer has stopped.
		s.watch = &watch{Watch: s.sniffer.Watch(max(watchLimit, p.maxHeader) - len(x.buf))}
	}
	return false, true
}

const untrustedHeader = "a PROXY header stands before the request, and is not taken from this peer"

// head looks for the end of the head.
func (s *sorter) head(x *exchange, p *policy) (done bool) {
	var n int
	from := s.scanned
	s.scanned = len(x.buf)
	if s.rule == nil {
		n, s.rule = wire.RequestEnd(x.buf, from)
	}
	if n == 0 && s.rule == nil && s.scanned >= p.maxHeader {
		s.rule = tooLarge(x.buf)
	}
	switch {
	case s.rule != nil && p.handler:
		return s.judge(x, p, from)
	case s.rule != nil:
		s.err = x.refuseHead(s.rule, p)
	case n > 0:
		s.n = n
	case s.broken != nil:
		s.err = x.readFailed(s.broken, wire.HTTP, p)
	default:
		return false
	}
	return true
}

// judge decides who answers a head that breaks a rule of this package if there is a
// Handler. If it may be an upgrade request, this package refuses it. Otherwise net/http
// judges it, as it judges later requests on a connection. Which of them it is shows when
// the head has ended as net/http sees it. At the limit, net/http reads on. The bytes
// before from contain no such end.
func (s *sorter) judge(x *exchange, p *policy, from int) (done bool) {
	n := wire.ResponseEnd(x.buf, from)
	whole := n > 0
	switch {
	case whole:
	case s.scanned >= p.maxHeader:
		n = s.scanned
	case s.broken == nil:
		return false
	default:
		if s.err = x.readFailed(s.broken, wire.Plain, p); s.err == nil { // not evicted, nor by Close
			s.err = x.refuseHead(s.rule, p)
		}
		return true
	}
	switch {
	case wire.MayUpgrade(x.buf[:n]):
		s.err = x.refuseHead(s.rule, p)
	case whole:
		s.n, s.err = n, &ordinaryError{}
	default:
		s.n, s.err = n, &ordinaryError{s.rule}
	}
	return true
}

// readProxyHeader takes the client's address from a header of the PROXY protocol. A
// connection of the proxy itself (LOCAL), such as a health check, has the proxy's address.
// If the proxy does not know its client, nothing that the client says about its address is
// used.
func (x *exchange) readProxyHeader(header []byte) error {
	// go-proxyproto has a limit of its own. What is beyond it are TLVs.
	if most := 16 + int(proxyproto.MaxV2HeaderSize); len(header) > most {
		header = bytes.Clone(header[:most])
		binary.BigEndian.PutUint16(header[14:], proxyproto.MaxV2HeaderSize)
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), len(header)))
	if err != nil {
		return err
	}
	// go-proxyproto takes the UNKNOWN of version 1 for LOCAL.
	local := h.Version == 2 && h.Command.IsLocal()
	source, _, ok := h.IPs()
	switch {
	case local:
	case h.Command.IsLocal() || !ok:
		x.unknown = true
	default:
		ip, _ := netip.AddrFromSlice(source)
		port, _, _ := h.Ports()
		x.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return nil
}

const stageRead = "read the upgrade request"

// readFailed decides what to do with a client from which no more can be read. nil means
// that it is a plain connection.
func (x *exchange) readFailed(err error, verdict wire.Verdict, p *policy) error {
	failed := &stageError{stage: stageRead, err: err}
	x.mu.Lock()
	evicted := x.evicted
	x.mu.Unlock()
	if len(x.buf) == 0 {
		if probe := x.probeFailure(err, p); probe != nil {
			return probe
		}
	}
	switch {
	case x.ctx.Err() != nil:
		return failed
	case evicted:
		// Room is made at the cost of a client that is silent, which an
		// application whose server speaks first knows how to serve.
		if len(x.buf) > 0 || p.refusePlain || !hasExpired(err) {
			return errEvicted
		}
		return nil
	case err == io.EOF && verdict == wire.HTTP:
		return x.refuseHead(&wire.Error{Status: 400, Offset: len(x.buf), Rule: "the request ends inside its head: RFC 9112 §8", Code: wire.CodeHead}, p)
	case hasExpired(err) && verdict == wire.HTTP:
		return x.refuseHead(&wire.Error{Status: 408, Offset: len(x.buf), Rule: "the head of the request did not arrive in time: RFC 9110 §15.5.9", Code: wire.CodeTooSlow}, p)
	case err == io.EOF || hasExpired(err):
		return nil
	}
	return failed
}

// A probeError is the end of a connection whose client has sent nothing, or less than a
// TLS ClientHello. Health checks and port scans are such clients. It is not a failure of a
// handshake, because there was none.
type probeError struct{ error }

func (e probeError) Unwrap() error { return e.error }

// probeFailure returns the error of a client that has ended its connection with err before
// it has sent anything. It is nil if that is a plain connection: a client may end its
// direction at once and wait for a server that speaks first (nc -N). A probe that only
// connects looks the same from here. Both count as plain if they are passed on, because
// the application then has a connection with a lifetime and bytes.
func (x *exchange) probeFailure(err error, p *policy) error {
	if !ended(err) || err == io.EOF && !p.refusePlain && !p.isDraining() {
		return nil
	}
	return &stageError{stage: stageRead, err: probeError{err}}
}

// A head of up to firstRead bytes that arrives in one segment costs one Read. A longer
// head gets room for secondRead bytes, and then for twice what has arrived.
const (
	firstRead  = 512
	secondRead = 4 << 10
)

// A buffer holds what a handshake has read and not yet consumed. A peer on a TCP connection
// that stalls at once, or in its head, makes us hold only what it has sent, up to secondRead.
type buffer struct {
	buf     []byte
	scratch *scratch // the first array of buf, from a pool; nil: buf has its own
}

// A scratch is memory that is borrowed for a short time. It has firstRead or secondRead bytes.
type scratch struct{ bytes []byte }

var (
	firsts  = sync.Pool{New: func() any { return &scratch{make([]byte, firstRead)} }}
	seconds = sync.Pool{New: func() any { return &scratch{make([]byte, secondRead)} }}
)

// borrow moves the bytes, of which there are less than firstRead, into a scratch.
func (b *buffer) borrow() {
	b.scratch = firsts.Get().(*scratch)
	b.buf = append(b.scratch.bytes[:0], b.buf...)
}

// keep moves the bytes out of the scratch, into an array of their size. Nothing else may refer
// to them.
//
//go:noinline
func (b *buffer) keep() {
	if b.scratch != nil {
		b.buf = append(make([]byte, 0, len(b.buf)), b.buf...)
	}
}

// spare returns a scratch behind a copy of the bytes, to be read into. There are less than
// secondRead bytes, and less than limit. After keep, release loses none of them.
//
//go:noinline
func (b *buffer) spare(limit int) []byte {
	pool, size := &firsts, firstRead
	if len(b.buf) >= firstRead {
		pool, size = &seconds, secondRead
	}
	if b.scratch != nil && len(b.scratch.bytes) != size {
		b.release()
	}
	if b.scratch == nil {
		b.scratch = pool.Get().(*scratch)
	}
	n := copy(b.scratch.bytes, b.buf)
	return b.scratch.bytes[n:min(size, limit)]
}

// release gives the scratch back.
func (b *buffer) release() {
	s := b.scratch
	if s == nil {
		return
	}
	b.scratch = nil
	clear(s.bytes) // they may be credentials
	if len(s.bytes) == firstRead {
		firsts.Put(s)
	} else {
		seconds.Put(s)
	}
}

// consume removes the first n bytes. The buffer keeps its capacity.
func (b *buffer) consume(n int) { b.buf = append(b.buf[:0], b.buf[n:]...) }

// grow makes the capacity at least size.
//
//go:noinline
func (b *buffer) grow(size int) {
	if size > cap(b.buf) {
		b.buf = append(make([]byte, 0, size), b.buf...)
	}
}

// room returns the free space behind the bytes in the buffer, which may hold up to
// limit bytes. It grows a buffer that is full.
func (b *buffer) room(limit int) []byte {
	left := limit - len(b.buf)
	switch {
	case len(b.buf) < cap(b.buf):
	case b.scratch == nil && len(b.buf) < firstRead:
		b.borrow()
	default:
		// Double it, and no more. The limit may be large, and a client that
		// stalls must not hold all of it for the few bytes that it has sent.
		b.grow(max(secondRead, len(b.buf)+min(len(b.buf), left)))
	}
	free := b.buf[len(b.buf):cap(b.buf)]
	return free[:min(len(free), left)]
}
