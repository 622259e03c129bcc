//go:build heavy

package main

import (
	"context"
	"log"
	"net"

	"github.com/sagernet/sing-box/option"
	"github.com/sagernet/sing-box/transport/v2rayhttpupgrade"
	"github.com/sagernet/sing/common/json/badoption"
	"github.com/sagernet/sing/common/logger"
	"github.com/sagernet/sing/common/metadata"
	"github.com/sagernet/sing/common/network"
	xlog "github.com/xtls/xray-core/common/log"
	xnet "github.com/xtls/xray-core/common/net"
	"github.com/xtls/xray-core/transport/internet"
	"github.com/xtls/xray-core/transport/internet/httpupgrade"
	"github.com/xtls/xray-core/transport/internet/stat"
)

// Both speak an upgrade to "websocket" without WebSocket behind it, with fields
// of their own choice.
var heavyPeers = []*peer{
	{"Xray-core httpupgrade", "its transport listener and dialer, logs off", listenXray, dialXray},
	{"sing-box v2rayhttpupgrade", "its transport server and client, logs off", listenSing, dialSing},
}

// noLog discards the log of Xray-core.
type noLog struct{}

func (noLog) Handle(xlog.Message) {}

func xrayConfig() *internet.MemoryStreamConfig {
	xlog.RegisterHandler(noLog{})
	header := make(map[string]string)
	for name := range fields {
		header[name] = fields.Get(name)
	}
	return &internet.MemoryStreamConfig{
		ProtocolName:     "httpupgrade",
		ProtocolSettings: &httpupgrade.Config{Path: target, Header: header},
	}
}

func listenXray(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback() // Xray takes port 0 for a Unix socket
	if err != nil {
		return "", err
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	_, err = httpupgrade.ListenHTTPUpgrade(context.Background(), xnet.IPAddress(address.IP), xnet.Port(address.Port), xrayConfig(),
		func(c stat.Connection) { handle(c) }) // Xray calls it in a goroutine of its own
	return address.String(), err
}

func dialXray(s *site) (dialFunc, error) {
	if err := internet.RegisterDialerController(s.net.Control); err != nil {
		return nil, err
	}
	config := xrayConfig()
	return func(ctx context.Context, address string) (net.Conn, error) {
		to, err := xnet.ParseDestination("tcp:" + address)
		if err != nil {
			return nil, err
		}
		c, err := httpupgrade.Dial(ctx, to, config)
		if err != nil {
			return nil, err
		}
		return c, nil
	}, nil
}

type singHandler func(net.Conn)

func (h singHandler) NewConnectionEx(_ context.Context, c net.Conn, _, _ metadata.Socksaddr, _ network.CloseHandlerFunc) {
	go h(c)
}

func listenSing(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	options := option.V2RayHTTPUpgradeOptions{Path: target}
	server, err := v2rayhttpupgrade.NewServer(context.Background(), logger.NOP(), options, nil, singHandler(handle))
	if err != nil {
		return "", err
	}
	go func() { log.Fatal(server.Serve(l)) }()
	return l.Addr().String(), nil
}

// A singDialer is a net.Dialer as sing-box wants it.
type singDialer struct{ *net.Dialer }

func (d singDialer) DialContext(ctx context.Context, network string, to metadata.Socksaddr) (net.Conn, error) {
	return d.Dialer.DialContext(ctx, network, to.String())
}

func (d singDialer) ListenPacket(context.Context, metadata.Socksaddr) (net.PacketConn, error) {
	return nil, net.ErrClosed
}

func dialSing(s *site) (dialFunc, error) {
	options := option.V2RayHTTPUpgradeOptions{Path: target, Headers: make(badoption.HTTPHeader)}
	for name, values := range fields {
		options.Headers[name] = values
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		to := metadata.ParseSocksaddr(address)
		client, err := v2rayhttpupgrade.NewClient(ctx, singDialer{s.net}, to, options, nil)
		if err != nil {
			return nil, err
		}
		return client.DialContext(ctx)
	}, nil
}
