package preflight_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
)

// Many drivers do not dial the address that they are configured with. They
// resolve its name first (pgx, nats.go, gRPC with its dns resolver), so that the
// proxy does not learn the name. Or they dial the RemoteAddr of a connection
// once more (pgx, to cancel a query), which may be that of a forward proxy. Give
// them a dial function that ignores its address:
//
//	config.DialFunc = dial                    // pgx
//	nats.SetCustomDialer(natsDialer)          // its Dial calls dial with context.Background()
//	&http.Transport{DialContext: dial}        // net/http
//	grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
//		return dial(ctx, "tcp", address)
//	})
//
// The client here asks for an address at which nobody listens.
func ExamplePreflightDialer_anyAddress() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "served", r.Host, r.URL)
	})}
	go server.Serve(ln)
	defer server.Close()

	edge := ln.Addr().String() // "edge.example:80"
	d := &preflight.PreflightDialer{Path: "/client/api"}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", edge)
	}

	client := &http.Client{Transport: &http.Transport{DialContext: dial}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://192.0.2.1:5432/orders")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Print(string(body))
	// Output: served 192.0.2.1:5432 /orders
}

// A client of a cluster dials each node at the address that the cluster tells it
// (Redis Cluster does so by MOVED). It must reach that very node, so each node
// has a path at the edge, and the address chooses the path. A dial function that
// ignores the address would reach one node alone.
func ExamplePreflightDialer_cluster() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "you have reached", conn.(*preflight.Conn).Request().URL)
			conn.Close()
		}
	}()

	edge := ln.Addr().String() // "edge.example:80"
	paths := map[string]string{
		"10.0.0.1:6379": "/client/redis-1",
		"10.0.0.2:6379": "/client/redis-2",
	}
	var base preflight.PreflightDialer // TLSConfig, Header and the like
	dial := func(ctx context.Context, _, node string) (net.Conn, error) {
		path, ok := paths[node]
		if !ok {
			return nil, fmt.Errorf("the node %s has no path at the edge", node)
		}
		d := base
		d.Path = path
		return d.DialContext(ctx, "tcp", edge)
	}

	// redis.NewClusterClient(&redis.ClusterOptions{Addrs: ..., Dialer: dial})
	for _, node := range []string{"10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379"} {
		conn, err := dial(context.Background(), "tcp", node)
		if err != nil {
			fmt.Println(err)
			continue
		}
		line, _ := io.ReadAll(conn)
		conn.Close()
		fmt.Print(string(line))
	}
	// Output:
	// you have reached /client/redis-1
	// you have reached /client/redis-2
	// the node 10.0.0.3:6379 has no path at the edge
}
