package preflight_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/preflight-go/preflight"
)

// userKey is the key of the user in the Context of a request.
type userKey struct{}

// Authorize finds out who the client is, once for each tunnel. The handlers of
// an HTTP server behind it find that in the Context of every request.
func ExamplePreflightListener_connContext() {
	users := map[string]string{"Bearer 4711": "alice", "Bearer 4712": "bob"}
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			user, ok := users[r.Header.Get("Authorization")]
			if !ok {
				return nil, errors.New("an unknown token") // answered 403
			}
			*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, user))
			return nil, nil
		},
	}
	server := &http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			// Never nil: with Authorize, plain connections are refused.
			upgrade := conn.(*preflight.Conn).Request()
			return context.WithValue(ctx, userKey{}, upgrade.Context().Value(userKey{}))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.URL.Path, "for", r.Context().Value(userKey{}))
		}),
	}
	go server.Serve(ln)
	defer server.Close()

	for _, token := range []string{"4711", "4712", "4713"} {
		d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer " + token}}}
		client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
		defer client.CloseIdleConnections()
		for _, path := range []string{"/orders", "/trades"} {
			res, err := client.Get("http://" + ln.Addr().String() + path)
			var refused *preflight.StatusError
			if errors.As(err, &refused) {
				fmt.Println(path, "refused:", refused.Status)
				continue
			}
			if err != nil {
				log.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			fmt.Print(string(body))
		}
	}
	// Output:
	// /orders for alice
	// /trades for alice
	// /orders for bob
	// /trades for bob
	// /orders refused: 403 Forbidden
	// /trades refused: 403 Forbidden
}

// userOf returns the user that Authorize has put into the request of a connection.
func userOf(conn net.Conn) (string, error) {
	tunnel, ok := conn.(*preflight.Conn)
	if !ok || tunnel.Request() == nil {
		return "", errors.New("the client has not come by preflight")
	}
	user, ok := tunnel.Request().Context().Value(userKey{}).(string)
	if !ok {
		return "", errors.New("nobody has vetted the client")
	}
	return user, nil
}

// A server asks the connection who the client is. A gRPC server does so in the
// ServerHandshake of its TransportCredentials, which sees each connection once:
//
//	func (c withUser) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
//		name, err := userOf(raw)
//		if err != nil {
//			return nil, nil, err // closes the connection
//		}
//		conn, _, err := c.TransportCredentials.ServerHandshake(raw)
//		return conn, user{name: name}, err
//	}
//
// Its handlers find the AuthInfo by peer.FromContext. The program
// [examples/grpcidentity] has all of that to copy.
//
// [examples/grpcidentity]: https://pkg.go.dev/github.com/preflight-go/preflight/examples/grpcidentity
func ExampleConn_Request() {
	ln := &preflight.PreflightListener{
		Listener: listenLocal(),
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") != "Bearer 4711" {
				return nil, errors.New("an unknown token") // answered 403
			}
			*r = *r.WithContext(context.WithValue(r.Context(), userKey{}, "alice"))
			return nil, nil
		},
	}
	defer ln.Close()

	d := &preflight.PreflightDialer{Header: http.Header{"Authorization": {"Bearer 4711"}}}
	conn, err := dialAndAccept(d, ln)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(userOf(conn))
	// Output: alice <nil>
}
