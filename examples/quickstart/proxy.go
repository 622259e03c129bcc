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
	locations := http.NewServeMux()
	locations.Handle("/client/", location("/client", to.tcp))
	locations.Handle("/ws/", location("/ws", to.ws))
	locations.Handle("/admin/", location("/admin", to.admin))
	actual, stop, err := serveHTTP(listen, locations)
	return actual, func() error { stop(); return nil }, err
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
