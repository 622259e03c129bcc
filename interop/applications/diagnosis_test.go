package applications

import (
	"context"
	"database/sql"
	"net"
	"net/http"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/nats-io/nats.go"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestDiagnosis pins what the users of each library see of a dial that a proxy refuses. nginx
// speaks HTTP/1.0 to the listener here. The whole text must arrive; where the library keeps
// the value of the error, errors.As must find it.
func TestDiagnosis(t *testing.T) {
	edge := lab.StartNginx(t, lab.ServeEcho(t), "proxy_http_version 1.1;", "").Plain
	d := edge.Dialer()
	d.Carriers = []preflight.Carrier{preflight.CarrierUpgrade}
	whole := "preflight: " + edge.Address + " answered 426 Upgrade Required: the listener got HTTP/1.0, which has no upgrade, from the last proxy. " +
		"nginx is on the way; if it is that proxy, its location needs `proxy_http_version 1.1`, `proxy_set_header Upgrade $http_upgrade`, " +
		"`proxy_set_header Connection upgrade` [http10]"
	_, err := d.Dial("tcp", edge.Address)
	require.EqualError(t, err, whole)

	for name, test := range map[string]struct {
		call func(ctx context.Context) error
		text string // "": as whole
		lost bool   // the library keeps the text alone
	}{
		"gRPC": {func(ctx context.Context) error {
			return lab.DialGRPC(t, d, edge.Address).Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
		}, `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: ` + whole + `"`, true},
		"database/sql": {func(ctx context.Context) error {
			mysql.RegisterDialContext(t.Name(), func(ctx context.Context, address string) (net.Conn, error) {
				return d.DialContext(ctx, "tcp", address)
			})
			defer mysql.DeregisterDialContext(t.Name())
			config := mysql.NewConfig()
			config.Net, config.Addr = t.Name(), edge.Address
			connector, err := mysql.NewConnector(config)
			require.NoError(t, err)
			db := sql.OpenDB(connector)
			defer db.Close()
			return db.PingContext(ctx)
		}, "", false},
		"go-redis": {func(ctx context.Context) error {
			client := redis.NewClient(&redis.Options{Addr: edge.Address, Dialer: d.DialContext, MaxRetries: -1})
			defer client.Close()
			return client.Ping(ctx).Err()
		}, "", false},
		"nats.go": {func(context.Context) error {
			c, err := nats.Connect("nats://"+edge.Address, nats.SetCustomDialer(d), nats.Timeout(lab.Timeout))
			if err == nil {
				c.Close()
			}
			return err
		}, "", false},
		"net/http": {func(ctx context.Context) error {
			transport := &http.Transport{DialContext: d.DialContext}
			defer transport.CloseIdleConnections()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+edge.Address, nil)
			require.NoError(t, err)
			response, err := (&http.Client{Transport: transport}).Do(request)
			if err == nil {
				response.Body.Close()
			}
			return err
		}, `Get "http://` + edge.Address + `": ` + whole, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
			defer cancel()
			err := test.call(ctx)
			if test.text == "" {
				test.text = whole
			}
			require.EqualError(t, err, test.text)
			if !test.lost {
				require.Equal(t, "http10", lab.StatusError(t, err).Reason)
			}
		})
	}
}
