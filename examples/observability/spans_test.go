package main

import (
	"fmt"
	"slices"
	"strings"
)

// wantSpans is what a demonstration leaves: a trace for each of its acts, in
// which the handshake on the server's side is below that on the client's, and
// the application's own answer below that. A plain client has no trace; its
// answer begins one. A handshake that has come to no request is called HTTP.
const wantSpans = `
HTTP (server)
a client that speaks TLS to a proxy that does not
  GET (client)
a health check that only connects
a plain client, straight to the server
a tunnel that the server refuses
  GET (client)
    GET (server)
an ordinary request
answer
more slow clients than the server has room for
tunnels
  GET (client)
    GET (server)
      answer
  GET (client)
    GET (server)
      answer
  GET (client)
    GET (server)
      answer
`

// printedSpans is the same as a tree prints it, without the times. HTTP (server) is
// the client that had to make room.
const printedSpans = `
tunnels
  GET (client) 101: connect, request_written, first_byte, upgraded
    GET (server) 101
      answer
  GET (client) 101: connect, request_written, first_byte, upgraded
    GET (server) 101
      answer
  GET (client) 101: connect, request_written, first_byte, upgraded
    GET (server) 101
      answer
a tunnel that the server refuses
  GET (client) 403: connect, request_written, first_byte
    GET (server) 403
a client that speaks TLS to a proxy that does not
  GET (client) tls: connect
a plain client, straight to the server
answer
an ordinary request
a health check that only connects
more slow clients than the server has room for
HTTP (server) evicted
`

var wantMetrics = map[string]bool{
	"preflight.client.handshake.duration":  true,
	"preflight.client.handshake.pending":   true,
	"preflight.client.connection.active":   true,
	"preflight.client.connection.duration": true,
	"preflight.client.connection.io":       true,
	"preflight.server.handshake.duration":  true,
	"preflight.server.handshake.pending":   true,
	"preflight.server.connection.active":   true,
	"preflight.server.connection.duration": true,
	"preflight.server.connection.io":       true,
	"preflight.server.evictions":           true,
}

// A span is what the tests look at of one, however it was exported.
type span struct {
	name       string
	kind       int // the same numbers in the API and in OTLP
	id, parent string
}

// none is the parent of a span that has none.
const none = "0000000000000000"

// outline draws the trees that spans are. A span whose parent was not exported
// is in none of them.
func outline(spans []span) string {
	var text strings.Builder
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		for _, s := range spans {
			if s.parent == parent {
				fmt.Fprintf(&text, "\n%s%s%s", indent, s.name, map[int]string{2: " (server)", 3: " (client)"}[s.kind])
				draw(s.id, indent+"  ")
			}
		}
	}
	slices.SortStableFunc(spans, func(a, b span) int { return strings.Compare(a.name, b.name) })
	draw(none, "")
	return text.String() + "\n"
}
