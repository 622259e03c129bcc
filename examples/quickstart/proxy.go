package main

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// backends has the addresses of the servers behind the proxy.
type backends struct{ tcp, ws, admin string }

// A startProxy starts a reverse proxy that listens on an address. It has the locations
// /client/, /ws/ and /admin/. The function returns the actual address.
type startProxy func(ctx context.Context, listen string, to backends) (actual string, stop func() error, err error)

// startGoProxy starts a reverse proxy of the standard library. It passes upgrades on without
// any configuration.
func startGoProxy(_ context.Context, listen string, to backends) (string, func() error, error) {
	return serveProxy(listen, locations(to))
}

// startWebSocketProxy starts a proxy that passes on WebSocket and no other upgrade. Many load
// balancers of the clouds do so, such as AWS ALB.
func startWebSocketProxy(_ context.Context, listen string, to backends) (string, func() error, error) {
	passOn := locations(to)
	return serveProxy(listen, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			r.Header.Del("Upgrade")
		}
		passOn.ServeHTTP(w, r)
	}))
}

func serveProxy(listen string, h http.Handler) (string, func() error, error) {
	actual, stop, err := serveHTTP(listen, h)
	return actual, func() error { stop(); return nil }, err
}

func locations(to backends) http.Handler {
	locations := http.NewServeMux()
	locations.Handle("/client/", location("/client", to.tcp))
	locations.Handle("/ws/", location("/ws", to.ws))
	locations.Handle("/admin/", location("/admin", to.admin))
	return locations
}

// location forwards requests to a server, without the prefix of the location.
func location(prefix, server string) http.Handler {
	return http.StripPrefix(prefix, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: server})
			r.Out.Host = r.In.Host // the server compares it with the Origin of browsers
			r.SetXForwarded()
		},
	})
}
