package applications

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/go-sql-driver/mysql"
	"github.com/nats-io/nats.go"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A namedEdge is a proxy that routes by the name in Host, as proxies with several hosts do.
// Only the name localhost leads to the server.
type namedEdge struct {
	name    string
	front   lab.Frontend
	address string // with the name
}

// startNamedEdges runs such proxies, without TLS and with TLS.
func startNamedEdges(t *testing.T, backend string) []namedEdge {
	t.Helper()
	var edges []namedEdge
	add := func(name string, r *lab.Edge) {
		for suffix, f := range map[string]lab.Frontend{"": r.Plain, "-tls": r.TLS} {
			edges = append(edges, namedEdge{name + suffix, f, "localhost:" + lab.Port(f.Address)})
		}
	}
	add("nginx", lab.StartNginx(t, backend, "location /client/ {",
		`if ($host != localhost) { return 404; } location /client/ {`))
	add("haproxy", lab.StartHAProxy(lab.HAProxyFile)(t, backend, "default_backend preflight_client",
		"http-request return status 404 unless { hdr(host),field(1,:) -i localhost }\n default_backend preflight_client"))
	return edges
}

// dialer returns a new dialer for the edge.
func (e namedEdge) dialer() *preflight.PreflightDialer { return e.front.Dialer() }

// dial is the dial function that the documentation recommends for drivers. It dials the
// edge, and ignores the address that it is given.
func (e namedEdge) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return e.dialer().DialContext(ctx, "tcp", e.address)
}

// requireNotFound requires a 404, by which the proxy says that it does not know the host.
func requireNotFound(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, http.StatusNotFound, lab.StatusError(t, err).StatusCode)
}

// TestDriverTakesDialer uses libraries that pass the name to the dialer. They need no dial
// function of their own.
func TestDriverTakesDialer(t *testing.T) {
	t.Run("http", func(t *testing.T) {
		l := &preflight.PreflightListener{Listener: lab.Listen(t)}
		serveHTTP(t, l)
		eachEdge(t, l.Addr().String(), func(t *testing.T, e namedEdge) {
			transport := &http.Transport{DialContext: e.dialer().DialContext}
			t.Cleanup(transport.CloseIdleConnections)
			response, err := (&http.Client{Transport: transport, Timeout: lab.Timeout}).Get("http://" + e.address)
			require.NoError(t, err)
			lab.ReadBody(t, response)
		})
	})
	t.Run("go-sql-driver", func(t *testing.T) {
		eachEdge(t, startRelay(t, startMariaDB(t)).address, func(t *testing.T, e namedEdge) {
			mysql.RegisterDialContext(t.Name(), func(ctx context.Context, address string) (net.Conn, error) {
				return e.dialer().DialContext(ctx, "tcp", address)
			})
			t.Cleanup(func() { mysql.DeregisterDialContext(t.Name()) })
			config := mysql.NewConfig()
			config.User, config.Passwd, config.Net, config.Addr = "jane", "secret", t.Name(), e.address
			connector, err := mysql.NewConnector(config)
			require.NoError(t, err)
			db := sql.OpenDB(connector)
			t.Cleanup(func() { db.Close() })
			require.NoError(t, db.PingContext(t.Context()))
		})
	})
	t.Run("go-redis", func(t *testing.T) {
		eachEdge(t, startRelay(t, startRedis(t)).address, func(t *testing.T, e namedEdge) {
			client := redis.NewClient(&redis.Options{Addr: e.address, Password: "secret", Dialer: e.dialer().DialContext, MaxRetries: -1})
			t.Cleanup(func() { client.Close() })
			require.NoError(t, client.Ping(t.Context()).Err())
		})
	})
	t.Run("paho", func(t *testing.T) {
		eachEdge(t, startRelay(t, startMosquitto(t)).address, func(t *testing.T, e namedEdge) {
			c := mqtt.NewClient(mqtt.NewClientOptions().
				AddBroker("tcp://" + e.address).
				SetConnectTimeout(lab.Timeout).
				SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
					return e.dialer().Dial("tcp", u.Host)
				}))
			mqttWait(t, c.Connect())
			c.Disconnect(0)
		})
	})
}

// eachEdge runs test with each edge in front of a server.
func eachEdge(t *testing.T, backend string, test func(t *testing.T, e namedEdge)) {
	t.Helper()
	for _, e := range startNamedEdges(t, backend) {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// TestDriverNATS shows that nats.go resolves names before it dials, so that the dialer gets
// an IP address. The option SkipHostLookup prevents that. A dialer that ignores its address
// needs no option.
func TestDriverNATS(t *testing.T) {
	eachEdge(t, startRelay(t, startNATS(t)).address, func(t *testing.T, e namedEdge) {
		connect := func(options ...nats.Option) (*nats.Conn, error) {
			return nats.Connect("nats://"+e.address, append(options, nats.Timeout(lab.Timeout))...)
		}
		_, err := connect(nats.SetCustomDialer(e.dialer()))
		requireNotFound(t, err)
		for name, options := range map[string][]nats.Option{
			"SkipHostLookup": {nats.SetCustomDialer(e.dialer()), nats.SkipHostLookup()},
			"AnyAddress":     {nats.SetCustomDialer(natsEdgeDialer{e})},
		} {
			c, err := connect(options...)
			require.NoError(t, err, name)
			t.Cleanup(c.Close)
			require.NoError(t, c.FlushTimeout(lab.Timeout), name)
		}
	})
}

// A natsEdgeDialer is the dial function as nats.CustomDialer, which has no context.
type natsEdgeDialer struct{ namedEdge }

func (e natsEdgeDialer) Dial(network, address string) (net.Conn, error) {
	return e.dial(context.Background(), network, address)
}

// TestDriverGRPC shows that the dialer gets an IP address from the dns resolver of gRPC, its
// default. The proxy gets the name if Host is set, with the passthrough resolver, and with a
// dialer that ignores its address.
func TestDriverGRPC(t *testing.T) {
	l := &preflight.PreflightListener{Listener: lab.Listen(t)}
	lab.ServeGRPC(t, "the server", l)
	eachEdge(t, l.Addr().String(), func(t *testing.T, e namedEdge) {
		withHost := e.dialer()
		withHost.Host = "localhost"
		anyAddress := dialFunc(e.dial)
		for _, test := range []struct {
			target string
			dialer preflight.ContextDialer
			works  bool
		}{
			{"passthrough:///" + e.address, e.dialer(), true},
			{"dns:///" + e.address, e.dialer(), false},
			{e.address, e.dialer(), false}, // the default
			{e.address, withHost, true},
			{e.address, anyAddress, true},
			{"passthrough:///app.example:443", anyAddress, true},
		} {
			t.Run(fmt.Sprintf("%s by %T", strings.ReplaceAll(test.target, "/", "."), test.dialer), func(t *testing.T) {
				c := lab.DialGRPCTarget(t, test.dialer, test.target)
				if test.works {
					require.Contains(t, lab.CallWho(t, c), "the server to ")
					return
				}
				require.ErrorContains(t, callError(t, c), "answered 404")
			})
		}
	})
}

// A dialFunc is a dial function as a ContextDialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

// callError returns the error of a call, which must fail before its deadline.
func callError(t *testing.T, c *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout)
	defer cancel()
	err := c.Invoke(ctx, "/interop.Service/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
	require.Error(t, err)
	require.NoError(t, ctx.Err())
	return err
}
