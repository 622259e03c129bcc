package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/preflight-go/preflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A client is a kind of client. It uses a connection, meets the other clients, and uses the
// same connection again. It returns its errors, because many clients run at once.
type client struct {
	name string
	use  func(ctx context.Context, p *program, meet func()) error
}

// clients are all kinds of clients of the port. The answers name the way by which a client
// came, so that no kind can be mistaken for another one.
var clients = []client{
	{"Lines/PlainTCP", useLines("plain TCP")},
	{"Lines/Preflight", useLines("preflight /lines")},
	{"Lines/TLS", useLines("TLS")},
	{"Lines/PreflightInTLS", useLines("preflight in TLS /lines")},
	{"Lines/TLSInTunnel", useLines("TLS in a tunnel /lines")},
	{"HTTP", useHTTP("http://")},
	{"HTTPS", useHTTP("https://")},
	{"WebSocket", useWebSocket("ws://")},
	{"WebSocketInTLS", useWebSocket("wss://")},
	{"GRPC/PriorKnowledge", useGRPC("plain TCP")},
	{"GRPC/TLS", useGRPCOverTLS},
	{"GRPC/Preflight", useGRPC("preflight /lines")},
	{"GRPC/PreflightInTLS", useGRPC("preflight in TLS /lines")},
	{"GRPC/TLSInTunnel", useGRPC("TLS in a tunnel /lines")},
}

type dial = func(ctx context.Context, p *program) (net.Conn, error)

// dials are the ways for a TCP client, by the names that the server uses.
var dials = map[string]dial{
	"plain TCP": func(ctx context.Context, p *program) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", p.address)
	},
	"TLS": func(ctx context.Context, p *program) (net.Conn, error) {
		return (&tls.Dialer{Config: p.tls()}).DialContext(ctx, "tcp", p.address)
	},
	"preflight /lines": func(ctx context.Context, p *program) (net.Conn, error) {
		return (&preflight.PreflightDialer{Path: "/lines"}).DialContext(ctx, "tcp", p.address)
	},
	"preflight in TLS /lines": func(ctx context.Context, p *program) (net.Conn, error) {
		return (&preflight.PreflightDialer{Path: "/lines", TLSConfig: p.tls()}).DialContext(ctx, "tcp", p.address)
	},
	"TLS in a tunnel /lines": func(ctx context.Context, p *program) (net.Conn, error) {
		return (&preflight.PreflightDialer{Path: "/lines", TunnelTLSConfig: p.tls()}).DialContext(ctx, "tcp", p.address)
	},
}

func (p *program) tls() *tls.Config { return &tls.Config{RootCAs: p.roots, ServerName: "localhost"} }

func useLines(way string) func(context.Context, *program, func()) error {
	return func(ctx context.Context, p *program, meet func()) error {
		c, err := dials[way](ctx, p)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		r := bufio.NewReader(c)
		if err := ask(c, r, way, "hello"); err != nil {
			return err
		}
		meet()
		return errors.Join(ask(c, r, way, `publish {"t":1}`), ask(c, r, way, ""))
	}
}

// ask sends a line, and requires the answer: the way, and the line in capitals.
func ask(c net.Conn, r *bufio.Reader, way, line string) error {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return err
	}
	got, err := r.ReadString('\n')
	return same(got, way+": "+strings.ToUpper(line)+"\n", err)
}

func same(got, want string, err error) error {
	if err == nil && got != want {
		err = fmt.Errorf("got %q, want %q", got, want)
	}
	return err
}

// useHTTP requests the page and the health on one connection, as a browser does.
func useHTTP(scheme string) func(context.Context, *program, func()) error {
	return func(ctx context.Context, p *program, meet func()) error {
		var dialed atomic.Int32
		transport := &http.Transport{
			TLSClientConfig:   p.tls(),
			ForceAttemptHTTP2: true, // as a browser does
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				dialed.Add(1)
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		}
		defer transport.CloseIdleConnections()
		page, err := get(ctx, transport, scheme+p.address+"/")
		if err != nil {
			return err
		}
		if !strings.Contains(page, "<title>oneport</title>") || !strings.Contains(page, "grpcurl -plaintext "+p.address) {
			return fmt.Errorf("the page is %q", page)
		}
		meet()
		health, err := get(ctx, transport, scheme+p.address+"/healthz")
		if err = same(health, "ok\n", err); err == nil && dialed.Load() != 1 {
			err = fmt.Errorf("%d connections were made", dialed.Load())
		}
		return err
	}
}

func get(ctx context.Context, by http.RoundTripper, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return "", err
	}
	response, err := by.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), same(response.Proto+" "+response.Status, "HTTP/1.1 200 OK", err)
}

func useWebSocket(scheme string) func(context.Context, *program, func()) error {
	return func(ctx context.Context, p *program, meet func()) error {
		transport := &http.Transport{TLSClientConfig: p.tls()}
		defer transport.CloseIdleConnections()
		c, _, err := websocket.Dial(ctx, scheme+p.address+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			return err
		}
		defer c.CloseNow()
		for i, line := range []string{"hello", "hello again"} {
			if i > 0 {
				meet()
			}
			if err := c.Write(ctx, websocket.MessageText, []byte(line)); err != nil {
				return err
			}
			_, got, err := c.Read(ctx)
			if err = same(string(got), "WebSocket /ws: "+strings.ToUpper(line), err); err != nil {
				return err
			}
		}
		return c.Close(websocket.StatusNormalClosure, "")
	}
}

func useGRPC(way string) func(context.Context, *program, func()) error {
	return func(ctx context.Context, p *program, meet func()) error {
		c, err := grpcClient(p, dials[way])
		if err != nil {
			return err
		}
		defer c.Close()
		return check(ctx, c, meet)
	}
}

// grpcClient returns a gRPC client without TLS on the connections that it dials.
func grpcClient(p *program, d dial) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+p.address,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d(ctx, p) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// useGRPCOverTLS has gRPC do TLS, with its ALPN.
func useGRPCOverTLS(ctx context.Context, p *program, meet func()) error {
	c, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(credentials.NewTLS(p.tls())))
	if err != nil {
		return err
	}
	defer c.Close()
	return check(ctx, c, meet)
}

// check requests the health, and then watches it.
func check(ctx context.Context, c *grpc.ClientConn, meet func()) error {
	health := healthpb.NewHealthClient(c)
	answer, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
	if err = same(answer.GetStatus().String(), "SERVING", err); err != nil {
		return err
	}
	meet()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := health.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	answer, err = watch.Recv()
	return same(answer.GetStatus().String(), "SERVING", err)
}
