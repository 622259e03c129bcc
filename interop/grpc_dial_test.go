package interop

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What the user of a gRPC client learns of a refusal: the text of the error of a
// call names the status and what to do about it. gRPC hands the error itself out
// only to those who still wait for the first connection; as far as it is
// permanent, which gRPC asks it.
func TestGRPCRefused(t *testing.T) {
	l := &preflight.PreflightListener{
		Listener: listenTCP(t),
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
	grpcServe(t, "the server", l)
	f := startNginx(t, l.Addr().String()).plain
	down := startNginx(t, "127.0.0.1:1").plain // privileged: nobody listens there by chance
	stripped := startNginx(t, l.Addr().String(), nginxVersion, "").plain
	for _, test := range []struct {
		name      string
		at        front
		path      string
		status    int
		want      []string
		permanent bool
	}{
		{"401", f, "/client/401", http.StatusUnauthorized,
			[]string{"answered 401 Unauthorized", "the credentials in Header or GetHeader are missing, wrong or expired"}, true},
		{"404", f, "/elsewhere", http.StatusNotFound, []string{"answered 404 Not Found", "check Path and Host"}, true},
		{"426", stripped, "/client/", http.StatusUpgradeRequired,
			[]string{"answered 426 Upgrade Required", "nginx wants `proxy_http_version 1.1`"}, true},
		{"502", down, "/client/", http.StatusBadGateway, []string{"answered 502 Bad Gateway", "the server behind the proxy is unavailable"}, false},
		{"503", f, "/client/503", http.StatusServiceUnavailable,
			[]string{"answered 503 Service", "the server behind the proxy is unavailable"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := test.at.dialer()
			d.Path = test.path
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			says := func(err error) {
				t.Helper()
				require.ErrorContains(t, err, "preflight: "+test.at.address)
				for _, text := range test.want {
					require.ErrorContains(t, err, text)
				}
				require.NotContains(t, err.Error(), "a body")
			}

			err := grpcDial(t, d, test.at.address).Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
			require.Equal(t, codes.Unavailable, status.Code(err))
			says(err)

			if test.permanent {
				_, err = outDialBlocking(ctx, d, test.at.address)
				require.NoError(t, ctx.Err())
				require.Equal(t, test.status, statusError(t, err).StatusCode)
				says(err)
				return
			}
			// One that may pass makes gRPC try again, until its context ends;
			// then it keeps the text alone.
			waiting, stop := context.WithCancel(ctx)
			defer stop()
			_, err = outDialBlocking(waiting, &outStopper{ContextDialer: d, stop: stop}, test.at.address)
			require.ErrorContains(t, err, context.Canceled.Error())
			says(err)
		})
	}
}

// An outStopper calls stop in its second attempt: gRPC then has taken note of
// the failure of the first.
type outStopper struct {
	preflight.ContextDialer
	stop     func()
	attempts atomic.Int32
}

func (d *outStopper) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.attempts.Add(1) == 2 {
		d.stop()
	}
	return d.ContextDialer.DialContext(ctx, network, address)
}

// outDialBlocking is how older clients connect: grpc.Dial waits for the first
// connection.
func outDialBlocking(ctx context.Context, d preflight.ContextDialer, address string) (*grpc.ClientConn, error) {
	dialer := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	})
	//lint:ignore SA1019 nothing else in gRPC returns the error of a dialer
	whole := []grpc.DialOption{grpc.WithReturnConnectionError(), grpc.FailOnNonTempDialError(true)}
	options := append(whole, dialer, grpc.WithTransportCredentials(insecure.NewCredentials()))
	//lint:ignore SA1019 as above
	return grpc.DialContext(ctx, "passthrough:///"+address, options...)
}
