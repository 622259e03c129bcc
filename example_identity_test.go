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
