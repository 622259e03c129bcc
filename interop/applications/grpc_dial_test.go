package applications

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestGRPCRefused shows what the user of a gRPC client learns about a refusal. The text of
// the error of a call names the status and the remedy. gRPC returns the error value only
// from a blocking dial, and only if the error says that it is not temporary.
func TestGRPCRefused(t *testing.T) {
	l := &preflight.PreflightListener{
		Listener: lab.Listen(t),
		Authorize: func(r *http.Request) (http.Header, error) {
			switch r.URL.Path {
			case "/401":
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized, Body: []byte("a body, which may be a secret")}
			case "/503":
				return nil, &preflight.StatusError{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"7"}}}
			}
			return nil, nil
		},
	}
	lab.ServeGRPC(t, "the server", l)
	f := lab.StartNginx(t, l.Addr().String()).Plain
	down := lab.StartNginx(t, "127.0.0.1:1").Plain // a privileged port, at which nothing listens
	stripped := lab.StartNginx(t, l.Addr().String(), "proxy_http_version 1.1;", "").Plain
	for _, test := range []struct {
		name      string
		at        lab.Frontend
		path      string
		status    int
		want      []string
		permanent bool
	}{
		{"401", f, "/client/401", http.StatusUnauthorized,
			[]string{"answered 401 Unauthorized", "Authorize of the listener refused the request, which was sent without Authorization"}, true},
		{"404", f, "/elsewhere", http.StatusNotFound, []string{"answered 404 Not Found", "Correct Host and Path, or its `server_name`, `location` and `proxy_pass` [no-route]"}, true},
		{"426", stripped, "/client/", http.StatusUpgradeRequired,
			[]string{"answered 426 Upgrade Required", "nginx is on the way; if it is that proxy, its location needs `proxy_http_version 1.1`"}, true},
		{"502", down, "/client/", http.StatusBadGateway, []string{"answered 502 Bad Gateway", "nginx got no valid answer from the server that `proxy_pass` names"}, false},
		{"503", f, "/client/503", http.StatusServiceUnavailable,
			[]string{"answered 503 Service", "refused the request temporarily; try again in 7s"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := test.at.Dialer()
			d.Path = test.path
			ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
			defer cancel()
			requireText := func(err error) {
				t.Helper()
				require.ErrorContains(t, err, "preflight: "+test.at.Address)
				for _, text := range test.want {
					require.ErrorContains(t, err, text)
				}
				require.NotContains(t, err.Error(), "a body")
			}

			err := lab.DialGRPC(t, d, test.at.Address).Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
			require.Equal(t, codes.Unavailable, status.Code(err))
			requireText(err)

			if test.permanent {
				_, err = dialBlocking(ctx, d, test.at.Address)
				require.NoError(t, ctx.Err())
				require.Equal(t, test.status, lab.StatusError(t, err).StatusCode)
				requireText(err)
				return
			}
			// If the error is temporary, gRPC dials again until the context ends.
			// Then its error has only the text.
			waiting, stop := context.WithCancel(ctx)
			defer stop()
			_, err = dialBlocking(waiting, &stopOnRetryDialer{ContextDialer: d, stop: stop}, test.at.Address)
			require.ErrorContains(t, err, context.Canceled.Error())
			requireText(err)
		})
	}
}

// A stopOnRetryDialer calls stop in its second attempt. By then gRPC has recorded the
// failure of the first one.
type stopOnRetryDialer struct {
	preflight.ContextDialer
	stop     func()
	attempts atomic.Int32
}

func (d *stopOnRetryDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.attempts.Add(1) == 2 {
		d.stop()
	}
	return d.ContextDialer.DialContext(ctx, network, address)
}

// dialBlocking waits for the first connection, as older clients do with grpc.Dial.
func dialBlocking(ctx context.Context, d preflight.ContextDialer, address string) (*grpc.ClientConn, error) {
	dialer := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	})
	//lint:ignore SA1019 nothing else in gRPC returns the error of a dialer
	returnError := []grpc.DialOption{grpc.WithReturnConnectionError(), grpc.FailOnNonTempDialError(true)}
	options := append(returnError, dialer, grpc.WithTransportCredentials(insecure.NewCredentials()))
	//lint:ignore SA1019 as above
	return grpc.DialContext(ctx, "passthrough:///"+address, options...)
}
