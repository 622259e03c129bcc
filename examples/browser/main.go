// Browser serves a web page that is a client of a TCP server. The page opens a tunnel from the
// browser to the server, and speaks its protocol: lines of JSON. Everything is on one port:
//
//   - the page, by HTTP
//   - its tunnel, in a WebSocket, see clients/js
//   - clients that have always spoken TCP to the server
//   - clients that come through a reverse proxy by an upgrade, such as those of AMPS
//
// Usage, from the root of the repository:
//
//	go run ./examples/browser                                # until Ctrl-C
//	go run ./examples/browser -origin https://app.example    # behind a proxy of that name
//
// A browser lets any page open a WebSocket to any server. Therefore the listener refuses the
// tunnels of pages that it does not know. Here it knows its own page, under the addresses of
// this machine, and the origins of -origin.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/clients/js"
	"github.com/preflight-go/preflight/examples/quickstart/broker"
)

// grace bounds the time that clients have to read the end of their connections.
const grace = 5 * time.Second

//go:embed web
var web embed.FS

type config struct {
	listen  string   // the address of the port
	origins []string // further origins of the page
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
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err = run(ctx, cfg, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("browser", flag.ContinueOnError)
	flags.StringVar(&cfg.listen, "listen", "127.0.0.1:9007", "`address` of the one port")
	flags.Func("origin", "a further `origin` of the page, such as https://app.example; may be repeated", func(origin string) error {
		cfg.origins = append(cfg.origins, origin)
		return nil
	})
	return cfg, flags.Parse(args)
}

// run serves until ctx ends.
func run(ctx context.Context, cfg config, out io.Writer) error {
	ln, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return err
	}
	host, port := reachable(ln.Addr())
	server := new(broker.Broker)
	listener := &preflight.PreflightListener{
		Listener:       ln,
		Handler:        page(),
		AllowedOrigins: append(cfg.origins, origin(host, port), origin("localhost", port)),
	}
	defer listener.Close()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	fmt.Fprint(out, usage(host, port))
	select {
	case <-ctx.Done():
	case err := <-failed:
		server.Close()
		return err
	}
	// Shutdown waits for the clients, to which the broker says goodbye.
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	shutdown := make(chan error, 1)
	go func() { shutdown <- listener.Shutdown(ctx) }()
	server.Close()
	if err := <-shutdown; err != nil {
		return fmt.Errorf("not everybody had finished after %v: %w", grace, err)
	}
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// page serves the page and the client in JavaScript, which it imports.
func page() http.Handler {
	files, _ := fs.Sub(web, "web") // fails only for an invalid name
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.Handle("GET /preflight/", http.StripPrefix("/preflight", http.FileServerFS(js.Files)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The page loads nothing from elsewhere, and connects to its own server alone.
		w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src data:")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// reachable returns where a client of this machine reaches the listener.
func reachable(address net.Addr) (host, port string) {
	host, port, _ = net.SplitHostPort(address.String())
	if net.ParseIP(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	return host, port
}

// origin returns the origin of a page. Browsers leave the default port out.
func origin(host, port string) string {
	return "http://" + strings.TrimSuffix(net.JoinHostPort(host, port), ":80")
}

// usage returns the URL of the page, and a command for each other kind of client.
func usage(host, port string) string {
	return strings.NewReplacer("ORIGIN", origin(host, port), "ADDRESS", net.JoinHostPort(host, port), "HOST PORT", host+" "+port).Replace(`Open this page in a browser, and subscribe to greetings:

  ORIGIN/

Then publish from elsewhere, on the same port:

  plain TCP     echo '{"c":"publish","t":"greetings","d":"by TCP"}' | nc -N HOST PORT
  by preflight  printf 'GET /lines HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n{"c":"publish","t":"greetings","d":"by preflight"}\n' | nc -N HOST PORT
  in Go         dialer.DialURL(ctx, "tcp://ADDRESS/lines?http_preflight=true")

`)
}
