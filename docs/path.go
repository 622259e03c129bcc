//go:build ignore

// Path writes path.svg, the picture of the README: a client, a reverse proxy and
// a server, and the messages between them.
//
//	go run docs/path.go > docs/path.svg
package main

import (
	"fmt"
	"html"
)

const (
	width, height = 860, 330
	client, proxy = 110, 430 // the middle of each column
	server        = 750
	boxWidth      = 180
)

func main() {
	fmt.Printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="A client reaches a server through a reverse proxy by one upgrade request">
<style>
  text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328; }
  .name { font-weight: 600; text-anchor: middle; }
  .note { fill: #59636e; text-anchor: middle; font-size: 12px; }
  .on { text-anchor: middle; font-size: 12px; }
  .box { fill: #f6f8fa; stroke: #59636e; }
  .line { stroke: #59636e; stroke-width: 1.5; fill: none; }
  .life { stroke: #d1d9e0; }
  .tunnel { fill: #0969da; }
  .tunnel-text { fill: #ffffff; text-anchor: middle; }
  .head { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .note { fill: #9198a1; }
    .box { fill: #151b23; stroke: #9198a1; }
    .line { stroke: #9198a1; }
    .life { stroke: #3d444d; }
    .tunnel { fill: #1f6feb; }
    .head { fill: #9198a1; }
  }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse"><path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>
`, width, height)
	for _, x := range []int{client, proxy, server} {
		fmt.Printf("<line class=\"life\" x1=\"%d\" y1=\"66\" x2=\"%d\" y2=\"%d\"/>\n", x, x, height-12)
	}
	box(client, "client", "PreflightDialer")
	box(proxy, "reverse proxy", "one open port")
	box(server, "server", "PreflightListener")
	arrow(client, proxy, 104, "GET /client/amps/json", "Upgrade: tcp")
	arrow(proxy, server, 150, "GET /amps/json", "Upgrade: tcp")
	arrow(server, proxy, 196, "101 Switching Protocols", "Upgrade: tcp")
	arrow(proxy, client, 242, "101 Switching Protocols", "Upgrade: tcp")
	fmt.Printf("<rect class=\"tunnel\" x=\"%d\" y=\"268\" width=\"%d\" height=\"34\" rx=\"4\"/>\n", client, server-client)
	fmt.Printf("<text class=\"tunnel-text\" x=\"%d\" y=\"290\">the bytes of your protocol, both ways, nothing added</text>\n", (client+server)/2)
	fmt.Println("</svg>")
}

func box(x int, name, note string) {
	fmt.Printf("<rect class=\"box\" x=\"%d\" y=\"12\" width=\"%d\" height=\"54\" rx=\"4\"/>\n", x-boxWidth/2, boxWidth)
	fmt.Printf("<text class=\"name\" x=\"%d\" y=\"35\">%s</text>\n", x, html.EscapeString(name))
	fmt.Printf("<text class=\"note\" x=\"%d\" y=\"54\">%s</text>\n", x, html.EscapeString(note))
}

// arrow draws a message with one line of text above it and one below.
func arrow(from, to, y int, above, below string) {
	fmt.Printf("<line class=\"line\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" marker-end=\"url(#head)\"/>\n", from, y, to, y)
	fmt.Printf("<text class=\"on\" x=\"%d\" y=\"%d\">%s</text>\n", (from+to)/2, y-6, html.EscapeString(above))
	fmt.Printf("<text class=\"on\" x=\"%d\" y=\"%d\">%s</text>\n", (from+to)/2, y+16, html.EscapeString(below))
}
