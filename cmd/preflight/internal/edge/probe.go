package edge

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/netip"

	"github.com/preflight-go/preflight"
)

// Parts are what an Edge dials with, for a program that looks at each step of a dial.
type Parts struct {
	Dialer  *preflight.PreflightDialer // a copy; its Header and GetHeader are empty
	Address string                     // host:port
	Fields  func(context.Context) (http.Header, error)
}

// Parts returns what Dial uses. Of the options in a URL of the library only those of TLS, of the
// carrier and the address of bind are kept. The port of bind is not: many connections at a time
// cannot share it.
func (e *Edge) Parts() (Parts, error) {
	d := *e.dialer.Load()
	d.Header, d.GetHeader = nil, nil
	p := Parts{Dialer: &d, Address: e.address, Fields: func(ctx context.Context) (http.Header, error) {
		fields := e.header.fixed.Clone()
		if fields == nil {
			fields = make(http.Header)
		}
		more, err := e.header.get(ctx, nil)
		maps.Copy(fields, more)
		return fields, err
	}}
	if e.url == "" {
		return p, nil
	}
	t, err := preflight.ParseURL(e.url)
	if err != nil {
		return Parts{}, err
	}
	p.Address, d.Path = t.Address, t.Path
	if t.Bind.IsValid() {
		d.NetDialer = &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Bind.Addr(), 0))}
	}
	if len(d.Carriers) == 0 {
		d.Carriers = t.Carriers
	}
	if d.TLSConfig != nil && t.ServerName != "" {
		d.TLSConfig = d.TLSConfig.Clone()
		d.TLSConfig.ServerName = t.ServerName
	}
	return p, nil
}
