package interop

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
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A namedEdge is a proxy for which the name in Host decides, as it does where
// several hosts share an address. Only localhost leads to the server.
type namedEdge struct {
	name    string
	front   front
	address string // with the name
}

// namedEdges are such proxies, in plain text and over TLS.
func namedEdges(t *testing.T, backend string) []namedEdge {
	t.Helper()
	var all []namedEdge
	lead := func(name string, r *running) {
		for suffix, f := range map[string]front{"": r.plain, "-tls": r.tls} {
			all = append(all, namedEdge{name + suffix, f, "localhost:" + outPort(f.address)})
		}
	}
	lead("nginx", startNginx(t, backend, "location /client/ {",
		`if ($host != localhost) { return 404; } location /client/ {`))
	lead("haproxy", startHAProxy(haproxyFile)(t, backend, "default_backend preflight",
		"http-request return status 404 unless { hdr(host),field(1,:) -i localhost }\n default_backend preflight"))
	return all
}

// dialer is what a user of the edge has.
func (e namedEdge) dialer() *preflight.PreflightDialer { return e.front.dialer() }

// dial is the dial function that the documentation recommends to drivers: it goes
// to the edge, whatever address it is given.
func (e namedEdge) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return e.dialer().DialContext(ctx, "tcp", e.address)
}

// missed requires that the proxy has not found the host.
func missed(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, http.StatusNotFound, statusError(t, err).StatusCode)
}

// Libraries that hand the name on take the dialer as it is.
func TestDriverTakesDialer(t *testing.T) {
	t.Run("http", func(t *testing.T) {
		l := &preflight.PreflightListener{Listener: listenTCP(t)}
		serveHTTP(t, l)
		eachEdge(t, l.Addr().String(), func(t *testing.T, e namedEdge) {
			transport := &http.Transport{DialContext: e.dialer().DialContext}
			t.Cleanup(transport.CloseIdleConnections)
			answer, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + e.address)
			require.NoError(t, err)
			readAll(t, answer)
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
				SetConnectTimeout(patience).
				SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
					return e.dialer().Dial("tcp", u.Host)
				}))
			mqttDone(t, c.Connect())
			c.Disconnect(0)
		})
	})
}

// eachEdge runs a test with each edge in front of a server.
func eachEdge(t *testing.T, backend string, test func(t *testing.T, e namedEdge)) {
	t.Helper()
	for _, e := range namedEdges(t, backend) {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// nats.go resolves names before it dials, and then asks the dialer for an IP
// address. SkipHostLookup leaves the name alone; a dialer that ignores its
// address needs no option.
func TestDriverNATS(t *testing.T) {
	eachEdge(t, startRelay(t, startNATS(t)).address, func(t *testing.T, e namedEdge) {
		connect := func(options ...nats.Option) (*nats.Conn, error) {
			return nats.Connect("nats://"+e.address, append(options, nats.Timeout(patience))...)
		}
		_, err := connect(nats.SetCustomDialer(e.dialer()))
		missed(t, err)
		for name, options := range map[string][]nats.Option{
			"SkipHostLookup": {nats.SetCustomDialer(e.dialer()), nats.SkipHostLookup()},
			"AnyAddress":     {nats.SetCustomDialer(natsEdge{e})},
		} {
			c, err := connect(options...)
			require.NoError(t, err, name)
			t.Cleanup(c.Close)
			require.NoError(t, c.FlushTimeout(patience), name)
		}
	})
}

// A natsEdge is the recipe as nats.go wants it: it dials without a context.
type natsEdge struct{ namedEdge }

func (e natsEdge) Dial(network, address string) (net.Conn, error) {
	return e.dial(context.Background(), network, address)
}

// gRPC's dns resolver, its default, asks the dialer for an IP address. With Host,
// with the passthrough resolver and with a dialer that ignores its address, the
// name arrives.
func TestDriverGRPC(t *testing.T) {
	l := &preflight.PreflightListener{Listener: listenTCP(t)}
	grpcServe(t, "the server", l)
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
				c := grpcDialTarget(t, test.dialer, test.target)
				if test.works {
					require.Contains(t, grpcAsk(t, c), "the server to ")
					return
				}
				require.ErrorContains(t, grpcFails(t, c), "answered 404")
			})
		}
	})
}

// A dialFunc is a dial function as a ContextDialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}
