package preflight_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/preflight-go/preflight"
)

// A server ends in three steps, of which the listener's is the first. In another
// order, the server closes the listener before Shutdown has begun: that cuts off
// the handshakes under way.
//
// The same holds for gRPC, with GracefulStop as the third step. GracefulStop has
// no limit in time: context.AfterFunc(ctx, server.Stop) gives it one.
func ExamplePreflightListener_Shutdown() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello")
	})}
	served, drained := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Serve(ln) }()

	d := &preflight.PreflightDialer{Path: "/client/api"}
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	res, err := client.Get("http://" + ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close() // the tunnel is kept for the next request

	// Longer than HandshakeTimeout: a silent client takes that long.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { drained <- ln.Shutdown(ctx) }() // 1. new tunnels are refused,
	<-served                                    // 2. the server has accepted the last one,
	err = server.Shutdown(ctx)                  // 3. requests are finished, and their tunnels closed
	fmt.Println(err, <-drained)
	// Output: <nil> <nil>
}

// A lineServer is a TCP server of one's own.
type lineServer struct {
	conns sync.Map // of net.Conn, those that are open
}

func (s *lineServer) serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		s.conns.Store(conn, nil) // before the next Accept, so that end finds it
		go func() {
			defer conn.Close()
			defer s.conns.Delete(conn)
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				fmt.Fprintf(conn, "hello, %s\n", lines.Text())
			}
			fmt.Fprintln(conn, "goodbye") // in the words of the protocol
		}()
	}
}

// end lets each connection answer the line that it has received, and no other.
func (s *lineServer) end() {
	s.conns.Range(func(conn, _ any) bool {
		conn.(net.Conn).SetReadDeadline(time.Now())
		return true
	})
}

// A TCP server of one's own ends by the same three steps. It keeps track of its
// connections, because nobody else can tell the clients to go.
func ExamplePreflightListener_Shutdown_ownServer() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := new(lineServer)
	served, drained := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.serve(ln) }()

	d := &preflight.PreflightDialer{Path: "/client/greet"}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Print(say(conn, "client"))

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { drained <- ln.Shutdown(ctx) }() // 1. new tunnels are refused,
	fmt.Println(<-served)                       // 2. Accept has returned the last one,
	server.end()                                // 3. the clients are told to go
	last, err := bufio.NewReader(conn).ReadString('\n')
	fmt.Print(last)
	fmt.Println(err, <-drained)
	// Output:
	// hello, client
	// use of closed network connection
	// goodbye
	// <nil> <nil>
}
