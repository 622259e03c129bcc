package main

import (
	"encoding/json"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
)

// counts are of the tunnels and the plain connections of a server since it began.
type counts struct {
	begin   time.Time
	refused atomic.Int64

	mu     sync.Mutex
	routes map[string]*routeCounts // by path
}

type routeCounts struct {
	Open       int   `json:"open"`
	Closed     int64 `json:"closed"`
	ClosedBad  int64 `json:"closed_early"`
	FromClient int64 `json:"bytes_from_client"`
	ToClient   int64 `json:"bytes_to_client"`
}

func (c *counts) change(path string, f func(*routeCounts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.routes == nil {
		c.routes = make(map[string]*routeCounts)
	}
	if c.routes[path] == nil {
		c.routes[path] = new(routeCounts)
	}
	f(c.routes[path])
}

func (c *counts) opened(path string) { c.change(path, func(r *routeCounts) { r.Open++ }) }

func (c *counts) closed(path string, result relay.Result) {
	c.change(path, func(r *routeCounts) {
		r.Open--
		r.Closed++
		if result.Err != nil {
			r.ClosedBad++
		}
		r.FromClient += result.Up
		r.ToClient += result.Down
	})
}

// A status is what GET /status answers. It has no address and no name: with --allow-all anybody
// can read it.
type status struct {
	Version  string        `json:"version"`
	Begin    time.Time     `json:"started"`
	Uptime   string        `json:"uptime"`
	Draining bool          `json:"draining"`
	Ready    bool          `json:"ready"`
	Places   int64         `json:"tunnels"`
	MaxConns int           `json:"max_tunnels"`
	Refused  int64         `json:"refused"`
	Routes   []routeStatus `json:"routes"`
}

type routeStatus struct {
	Path string `json:"path"`
	Up   bool   `json:"up"`
	routeCounts
}

func (s *server) status() status {
	set := s.current.Load()
	up := s.health.check(set)
	x := status{
		Version: version(), Begin: s.counts.begin.UTC().Truncate(time.Second), Uptime: time.Since(s.counts.begin).Truncate(time.Second).String(),
		Draining: s.draining.Load(), Ready: !s.draining.Load() && allUp(up),
		Places: s.places.Load(), MaxConns: set.MaxConns, Refused: s.counts.refused.Load(),
	}
	for i, r := range set.routes {
		line := routeStatus{Path: r.path + "/", Up: up[i]}
		s.counts.change(r.path, func(c *routeCounts) { line.routeCounts = *c })
		x.Routes = append(x.Routes, line)
	}
	return x
}

// admit checks whether the sender of an ordinary request may open a tunnel.
func (s *settings) admit(r *http.Request) error {
	if err := s.slow(r.RemoteAddr); err != nil {
		return err
	}
	_, err := s.rules.Check(r)
	return err
}

// serveStatus answers who may open a tunnel.
func (s *server) serveStatus(w http.ResponseWriter, r *http.Request) {
	if err := s.current.Load().admit(r); err != nil {
		refusal := err.(*preflight.StatusError)
		for name, values := range refusal.Header {
			w.Header()[name] = values
		}
		answerStatus(w, refusal.StatusCode, strings.TrimSpace(string(refusal.Body)))
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(s.status())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	page.Execute(w, s.status())
}

var page = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>preflight</title>
<style>body{font:16px system-ui;margin:2em}td,th{padding:.3em 1em .3em 0;text-align:left}td.n{text-align:right}</style>
<h1>preflight: {{if .Draining}}draining{{else if .Ready}}ready{{else}}not ready{{end}}</h1>
<p>{{.Version}}, up for {{.Uptime}}. {{.Places}} tunnels{{if .MaxConns}} of at most {{.MaxConns}}{{end}}, {{.Refused}} refused.</p>
<table><tr><th>route<th>server<th>open<th>closed<th>closed early<th>bytes from clients<th>bytes to clients</tr>
{{range .Routes}}<tr><td>{{.Path}}<td>{{if .Up}}up{{else}}down{{end}}<td class="n">{{.Open}}<td class="n">{{.Closed}}<td class="n">{{.ClosedBad}}<td class="n">{{.FromClient}}<td class="n">{{.ToClient}}</tr>
{{end}}</table></html>
`))
