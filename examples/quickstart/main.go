// Quickstart shows the use case of HTTP preflight on one open port. A reverse proxy has three
// locations:
//
//	/client/  TCP by preflight, to a publish/subscribe server that speaks lines of JSON
//	/ws/      WebSocket, to the same topics
//	/admin/   HTTP, to a page with the connections and counts of that server
//
// A TCP client publishes {"hello":"world"} every second through /client/. A WebSocket client
// receives it through /ws/. A plain TCP client receives it directly from the server, and
// needs no change.
//
// Two lines use the library, both in [run]: one in the server, and one in the client. Usage,
// from the root of the repository:
//
//	go run ./examples/quickstart                   # a proxy of net/http/httputil
//	go run ./examples/quickstart -proxy nginx      # a real nginx
//	go run ./examples/quickstart -proxy websocket  # a proxy that forwards WebSocket alone
//	go run ./examples/quickstart -for 0            # until Ctrl-C, to try it with your own clients
//
// It exits 0 only if every message arrived at both subscribers, in order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/examples/quickstart/broker"
)

const (
	topic    = "greetings"
	greeting = `{"hello":"world"}`
	interval = time.Second // between two messages

	// timeout bounds each step that waits for another party.
	timeout = 5 * time.Second
)

// farewell is the end of the output. A test compares its two lines with run.
const farewell = `
The two lines of Go that did it, from examples/quickstart/main.go:

  listener := &preflight.PreflightListener{Listener: ln}   the server, before: ln
  publisher, err := dialer.DialURL(setup, clientURL)       the client, before: net.Dial("tcp", address)

What to try next:

  go run ./examples/quickstart -proxy nginx       the same through a real nginx
  go run ./examples/quickstart -proxy websocket   the same where the proxy forwards WebSocket alone
  go run ./examples/quickstart -for 0             until Ctrl-C; connect clients of your own
  go run ./examples/oneport                       TCP, TLS, HTTP, WebSocket and gRPC on one port
  deploy/README.md                                a configuration to copy for your proxy
  docs/migration.md                               how to roll it out
`

// withoutUpgrade explains the exchange with a proxy that forwards WebSocket alone.
const withoutUpgrade = `
This proxy forwards WebSocket alone. The dialer has asked for tcp, and then by itself for
websocket. It remembers that, so the next dial sends one request.
`

type config struct {
	listen     string        // the address of the open port
	duration   time.Duration // how long it publishes; 0: until ctx ends
	startProxy startProxy
}

func main() {
	cfg, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // package flag has printed the error
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, cfg, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	cfg := config{duration: 3 * time.Second, startProxy: startGoProxy}
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.StringVar(&cfg.listen, "listen", "127.0.0.1:0", "`address` of the one open port")
	flags.Func("for", "publish for this `duration`; 0 means until Ctrl-C (default 3s)", func(s string) (err error) {
		cfg.duration, err = time.ParseDuration(s)
		if err == nil && cfg.duration < 0 {
			err = errors.New("is negative")
		}
		return err
	})
	flags.Func("proxy", "`name` of the reverse proxy: go, nginx or websocket (default go)", func(name string) error {
		switch name {
		case "go":
			cfg.startProxy = startGoProxy
		case "nginx":
			cfg.startProxy = startNginx
		case "websocket":
			cfg.startProxy = startWebSocketProxy
		default:
			return errors.New("want go, nginx or websocket")
		}
		return nil
	})
	return cfg, flags.Parse(args)
}

// run starts the servers, the proxy in front of them and the clients, and publishes. It
// returns nil if all messages have arrived.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	var goroutines sync.WaitGroup
	defer goroutines.Wait()

	// Behind the proxy: the TCP server. Its listener accepts tunnels, and the plain
	// clients that it has always had.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	atServer := new(recorder)
	ln = &recordedListener{Listener: ln, recorder: atServer} // only to show the bytes below

	server := new(broker.Broker)
	defer server.Close()

	// THE LINE in the server. Without it, the server serves ln itself.
	listener := &preflight.PreflightListener{Listener: ln}

	defer listener.Close()
	goroutines.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
			log.Print(err)
		}
	})

	// Also behind the proxy: the WebSocket endpoint and the admin page.
	behind := backends{tcp: ln.Addr().String()}
	var stop func()
	if behind.ws, stop, err = serveHTTP("127.0.0.1:0", webSocket(server)); err != nil {
		return err
	}
	defer stop()
	if behind.admin, stop, err = serveHTTP("127.0.0.1:0", adminPage(server)); err != nil {
		return err
	}
	defer stop()

	// In front of them: the proxy with the open port.
	edge, stopProxy, err := cfg.startProxy(ctx, cfg.listen, behind)
	if err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	defer func() { err = errors.Join(err, stopProxy()) }()
	clientURL := "tcp://" + edge + "/client/amps/json?http_preflight=true"
	wsURL := "ws://" + edge + "/ws/amps/json"
	adminURL := "http://" + edge + "/admin/"

	fmt.Fprintf(out, "The one open port: %s\n\n", edge)
	fmt.Fprintf(out, "  %-60s the publisher, TCP by preflight\n", clientURL)
	fmt.Fprintf(out, "  %-60s a subscriber, WebSocket\n", wsURL)
	fmt.Fprintf(out, "  %-60s the admin page, HTTP\n\n", adminURL)
	fmt.Fprintf(out, "Not through the proxy, straight to the TCP server behind it:\n\n")
	fmt.Fprintf(out, "  %-60s a subscriber, plain TCP\n", "tcp://"+behind.tcp)

	// The publisher comes through the proxy.
	setup, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	atClient := new(recorder)
	dialer := &preflight.PreflightDialer{NetDialer: atClient} // NetDialer only to show the bytes below

	// THE LINE in the client. Without a proxy, it is net.Dial("tcp", address).
	publisher, err := dialer.DialURL(setup, clientURL)

	if err != nil {
		return err
	}
	defer publisher.Close()
	printExchange(out, atClient, atServer)
	if publisher.(*preflight.Conn).Carrier() == preflight.CarrierWebSocket {
		fmt.Fprint(out, withoutUpgrade)
	}

	// The subscribers. The server acknowledges both before the first message, so that they
	// cannot miss it.
	arrivals := make(chan arrival)
	throughProxy, err := subscribeByWebSocket(setup, wsURL, arrivals)
	if err != nil {
		return err
	}
	defer throughProxy.close()
	direct, err := subscribeByTCP(setup, behind.tcp, arrivals)
	if err != nil {
		return err
	}
	defer direct.close()

	fmt.Fprintf(out, "\nFrom here on the tunnel is a TCP connection like any other:\n\n")
	published, err := play(ctx, cfg.duration, out, publisher, arrivals, throughProxy, direct)
	err = errors.Join(err, printAdminPage(ctx, out, adminURL))
	if err == nil {
		fmt.Fprintf(out, "\nOK: every message arrived at both subscribers, in order (%d of %[1]d).\n%s", published, farewell)
	}
	return err
}
