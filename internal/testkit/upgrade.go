package testkit

import (
	"context"
	"net"
	"net/http"
	"net/url"

	"github.com/preflight-go/preflight"
)

// The bytes of the exchange for UpgradeRequestOf.
const (
	UpgradeRequest = "GET /amps/json?a=b%20c HTTP/1.1\r\nHost: edge.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n\r\n"
	UpgradeAnswer  = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
)

func UpgradeRequestOf() *http.Request {
	return &http.Request{
		Host: "edge.example",
		URL:  &url.URL{Path: "/amps/json", RawQuery: "a=b%20c"},
	}
}

// An upgradeRole is one side of an upgrade, as its peer sees it.
type upgradeRole struct {
	Receives string // the bytes from the peer before the payload
	Sends    string
	Play     func(context.Context, net.Conn) (*preflight.Conn, error)
}

var UpgradeRoles = map[string]upgradeRole{
	"client": {UpgradeAnswer, UpgradeRequest, UpgradeClient},
	"server": {UpgradeRequest, UpgradeAnswer, preflight.Server},
	"plain":  {"", "", preflight.Server},
}

func UpgradeClient(ctx context.Context, c net.Conn) (*preflight.Conn, error) {
	return preflight.Client(ctx, c, UpgradeRequestOf())
}
