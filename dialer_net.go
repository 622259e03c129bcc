package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"
)

// checkNet rejects a NetDialer that is a nil pointer, a network that is not a stream, and
// a HandshakeTimeout that would overflow a time.
func (d *PreflightDialer) checkNet(network string) error {
	if d.HandshakeTimeout > maxTimeout {
		return fmt.Errorf("HandshakeTimeout is %v, and may be %v at most; negative means none", d.HandshakeTimeout, maxTimeout)
	}
	if d.NetDialer != nil && isNil(d.NetDialer) {
		return fmt.Errorf("NetDialer is a nil %T; leave it unset for a zero net.Dialer", d.NetDialer)
	}
	switch family, _, _ := strings.Cut(network, ":"); family {
	case "tcp", "tcp4", "tcp6", "unix":
		return nil
	case "udp", "udp4", "udp6", "ip", "ip4", "ip6", "unixgram", "unixpacket":
	default:
		// A NetDialer of the user's may know networks that package net does not.
		if _, isNet := d.netDialer().(*net.Dialer); !isNet {
			return nil
		}
	}
	return fmt.Errorf("a tunnel needs a network that is a stream (tcp, tcp4, tcp6 or unix), not %q", network)
}

func (d *PreflightDialer) netDialer() ContextDialer {
	if d.NetDialer == nil {
		return new(net.Dialer)
	}
	return d.NetDialer
}

// dialNet calls next and checks its result: a nil connection would cause a panic later.
func dialNet(ctx context.Context, next ContextDialer, network, address string) (net.Conn, error) {
	c, err := next.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if isNil(c) {
		return nil, fmt.Errorf("preflight: NetDialer (%T) returned neither a connection nor an error", next)
	}
	return c, nil
}

// isNil reports whether v is nil, or holds a nil pointer, function, map, channel or
// slice.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		return r.IsNil()
	}
	return false
}

// withConnectDeadline is context.WithDeadline for the dial of next to address.
func withConnectDeadline(ctx context.Context, deadline time.Time, next ContextDialer, address string) (context.Context, context.CancelFunc) {
	_, isNet := next.(*net.Dialer)
	if end, ok := ctx.Deadline(); !isNet || !isIPAddress(address) || ok && end.Before(deadline) {
		return context.WithDeadline(ctx, deadline)
	}
	// There is no name to resolve. Package net sets the deadline of a context that
	// can end on the socket itself. An additional timer would cost six allocations.
	c := deadlineContext{ctx, ctx, deadline}
	if ctx.Done() == nil {
		c.Context = never
	}
	return c, func() {}
}

// A deadlineContext has a deadline but does not end when it passes.
type deadlineContext struct {
	context.Context
	values   context.Context
	deadline time.Time
}

// never has a Done channel that never closes.
var never, _ = context.WithCancel(context.Background())

func (c deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c deadlineContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// dialer returns next with the options of the target.
func (t *Target) dialer(next ContextDialer) (ContextDialer, error) {
	if t.Bind.IsValid() {
		d, ok := next.(*net.Dialer)
		if !ok {
			return nil, fmt.Errorf("option bind needs a *net.Dialer as NetDialer, not %T", next)
		}
		bound := *d
		bound.LocalAddr = net.TCPAddrFromAddrPort(t.Bind)
		next = &bound
	}
	return &targetDialer{next, t}, nil
}

// A targetDialer applies the options of a target to the connections of next.
type targetDialer struct {
	next ContextDialer
	*Target
}

func (d *targetDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.dialPreferred(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := d.apply(c); err != nil {
		abandon(c)
		return nil, err
	}
	return c, nil
}

// headStart is how long only the preferred family is dialed. It is the FallbackDelay of
// [net.Dialer].
const headStart = 300 * time.Millisecond

// dialPreferred dials the preferred family. It dials the other family in parallel as soon
// as the preferred one has failed or has used its head start: a family whose packets are
// lost must not use up the time of the other (RFC 8305 §5). If both connect, the
// preferred connection is returned.
func (d *targetDialer) dialPreferred(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Prefer == "" {
		return dialNet(ctx, d.next, network, address)
	}
	first, second := network+"4", network+"6"
	if d.Prefer == "ipv6" {
		first, second = second, first
	}
	delay := headStart
	if deadline, ok := ctx.Deadline(); ok {
		delay = min(delay, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c     net.Conn
		err   error
		panic any
	}
	results := make(chan result, 1)
	dialSecond := func() {
		r := result{err: errPanic} // of a goroutine that NetDialer ends
		defer func() {
			r.panic = recover() // for the caller: on the timer's goroutine it would end the process
			results <- r
		}()
		r.c, r.err = dialNet(ctx, d.next, second, address)
		if r.err == nil {
			cancel() // the first one is not needed any more
		}
	}
	timer := time.AfterFunc(delay, dialSecond)
	defer timer.Stop()
	c, err := dialNet(ctx, d.next, first, address)
	notBegun := timer.Stop()
	switch {
	case err == nil && notBegun:
		return c, nil
	case err == nil:
		cancel()
		other := <-results
		if other.panic != nil {
			abandon(c)
			panic(other.panic)
		}
		if other.err == nil {
			abandon(other.c)
		}
		return c, nil
	case notBegun && ctx.Err() != nil:
		return nil, err
	case notBegun:
		dialSecond()
	}
	other := <-results
	if other.panic != nil {
		panic(other.panic)
	}
	if other.err != nil {
		return nil, errors.Join(err, other.err)
	}
	return other.c, nil
}

// apply sets the socket options.
func (t *Target) apply(c net.Conn) error {
	if t.NoDelay == nil && t.KeepAlive == nil && t.SendBuffer == 0 && t.ReceiveBuffer == 0 && t.Linger == nil {
		return nil
	}
	tcp := tcpConn(c)
	if tcp == nil {
		return fmt.Errorf("preflight: the tcp_ options need a TCP connection; NetDialer returned %T", c)
	}
	var errs []error
	if t.NoDelay != nil {
		errs = append(errs, tcp.SetNoDelay(*t.NoDelay))
	}
	if t.KeepAlive != nil {
		errs = append(errs, tcp.SetKeepAlive(*t.KeepAlive))
	}
	if t.SendBuffer > 0 {
		errs = append(errs, tcp.SetWriteBuffer(t.SendBuffer))
	}
	if t.ReceiveBuffer > 0 {
		errs = append(errs, tcp.SetReadBuffer(t.ReceiveBuffer))
	}
	if t.Linger != nil {
		errs = append(errs, tcp.SetLinger(*t.Linger))
	}
	return errors.Join(errs...)
}

// tcpConn returns the TCP connection at the bottom of c, or nil.
func tcpConn(c net.Conn) *net.TCPConn {
	for {
		switch below := c.(type) {
		case *net.TCPConn:
			return below
		case interface{ NetConn() net.Conn }:
			c = below.NetConn()
		default:
			return nil
		}
	}
}
