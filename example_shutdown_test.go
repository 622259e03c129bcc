package preflight_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/preflight-go/preflight"
)

// An HTTP server in tunnels ends in three steps, none of which loses a client.
func ExamplePreflightListener_Shutdown() {
	ln := &preflight.PreflightListener{Listener: listenLocal()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello")
	})}
	served, drained := make(chan error), make(chan error)
	go func() { served <- server.Serve(ln) }()

	d := &preflight.PreflightDialer{Path: "/client/api"}
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	res, err := client.Get("http://" + ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close() // the tunnel is kept for the next request

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { drained <- ln.Shutdown(ctx) }() // new tunnels are refused,
	<-served                                    // the last one has been accepted,
	err = server.Shutdown(ctx)                  // requests are finished, and their tunnels closed
	fmt.Println(err, <-drained)
	// Output: <nil> <nil>
}
