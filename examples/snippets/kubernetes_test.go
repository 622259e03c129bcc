package snippets_test

import (
	"log"
	"net/http"
	"net/netip"

	"github.com/preflight-go/preflight"
)

// In a pod.
func Example_kubernetes() {
	inner := listen()
	ln := &preflight.PreflightListener{
		Listener:         inner,
		RequireUpgrade:   true,                                                   // nothing but tunnels comes from the gateway
		TrustedProxies:   []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, // the pods of the cluster
		ClientAddrHeader: "X-Forwarded-For",
	}
	defer ln.Close()
	go lineServer{}.Serve(ln)

	// This client is no pod: the listener ignores its field, and the tunnel works.
	d := &preflight.PreflightDialer{Path: "/amps/json", Header: http.Header{"X-Forwarded-For": {"203.0.113.7"}}}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	say(conn, "pod")
	// Output: hello pod, by /amps/json
}
