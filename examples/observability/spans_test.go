package main

import (
	"fmt"
	"slices"
	"strings"
)

// wantSpans are the spans of a demonstration: a trace for each act. In it the handshake of
// the server is below that of the client, and the answer of the application is below the
// handshake of the server. A plain client has no trace, so its answer begins one. The span of
// a handshake without a request is named HTTP.
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

// printedSpans are the same spans as a tree prints them, without the times. HTTP (server) is
// the client that was evicted.
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

// A span has the parts of an exported span that the tests compare.
type span struct {
	name       string
	kind       int // the API and OTLP have the same numbers
	id, parent string
}

// none is the parent of a root span.
const none = "0000000000000000"

// outline draws spans as trees. It omits spans whose parent was not exported.
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
