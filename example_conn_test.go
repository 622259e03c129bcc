package preflight_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
)

// Client makes a tunnel of a connection that you have opened yourself, by
// whatever way.
func ExampleClient() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() // also if Client fails
	req, err := http.NewRequest(http.MethodGet, "http://edge.example/client/greet", nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("X-Desk", "fx")
	tunnel, err := preflight.Client(context.Background(), c, req)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tunnel.Request().Host, tunnel.Request().URL.Path, tunnel.Response().Status)
	fmt.Print(say(tunnel, "own connection"))
	// Output:
	// edge.example /client/greet 101 Switching Protocols
	// hello, own connection
}

// CloseWrite ends one direction: the server reads to the end, and answers. It
// depends on the proxies on the way whether that works; nginx and others end both
// directions.
func ExampleConn_CloseWrite() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		all, err := io.ReadAll(conn) // until CloseWrite
		if err != nil {
			log.Fatal(err)
		}
		conn.Write(bytes.ToUpper(all))
	}()

	var d preflight.PreflightDialer
	dialed, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn := dialed.(*preflight.Conn)
	defer conn.Close()
	io.WriteString(conn, "all that ")
	io.WriteString(conn, "i have to say")
	if err := conn.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	fmt.Println(string(answer), err)
	// Output: ALL THAT I HAVE TO SAY <nil>
}

// Socket options, and net.Buffers for a write of several slices, need the
// connection below. There may be TLS between it and the tunnel.
func ExampleConn_NetConn() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go greet(ln)

	var d preflight.PreflightDialer
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	tcp, err := bottom(conn)
	if err != nil {
		log.Fatal(err)
	}
	if err := tcp.SetKeepAlive(false); err != nil {
		log.Fatal(err)
	}
	lines := net.Buffers{[]byte("one call "), []byte("of writev\n")}
	if _, err := lines.WriteTo(conn.(*preflight.Conn).NetConn()); err != nil {
		log.Fatal(err)
	}
	fmt.Print(say(conn, ""))
	// Output: hello, one call of writev
}

// bottom is the TCP connection under all layers of c.
func bottom(c net.Conn) (*net.TCPConn, error) {
	for {
		switch layer := c.(type) {
		case *net.TCPConn:
			return layer, nil
		case interface{ NetConn() net.Conn }: // *preflight.Conn, *tls.Conn
			c = layer.NetConn()
		default:
			return nil, errors.New("there is no TCP connection at the bottom")
		}
	}
}
