package snippets_test

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
)

func Example_security() {
	inner := listen()
	ln := &preflight.PreflightListener{
		Listener:       inner,
		AllowedOrigins: []string{"https://app.example", "https://*.app.example"},
	}
	defer ln.Close()
	go ln.Accept()

	// What a browser adds to the WebSocket of a page.
	for _, origin := range []string{"https://app.example", "https://evil.example"} {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: tunnel.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: %s\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n", origin)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(origin, answer.Status)
	}
	// Output:
	// https://app.example 101 Switching Protocols
	// https://evil.example 403 Forbidden
}
