package preflight

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"
)

// checkNet refuses a NetDialer that is a nil pointer, a network that is no
// stream, and a HandshakeTimeout that would overflow a time.
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

// dialNet dials by next, whose result it does not trust: a nil connection would
// be a panic later.
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

// isNil reports whether v is nil, or holds a nil pointer or the like.
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
	// There is no name to resolve, and package net sets the deadline of a
	// context that may end on the socket. A timer beside that would cost six
	// more allocations.
	c := deadlineContext{ctx, ctx, deadline}
	if ctx.Done() == nil {
		c.Context = never
	}
	return c, func() {}
}

// A deadlineContext has a deadline, and does not end by it.
type deadlineContext struct {
	context.Context
	values   context.Context
	deadline time.Time
}

// never may end, as far as others can know, and does not.
var never, _ = context.WithCancel(context.Background())

func (c deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c deadlineContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}
