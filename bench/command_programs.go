package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The rows of the relays that are programs. A program of which a client needs the other
// half has a row for each of the two.
const (
	haproxyTCP    = "HAProxy, mode tcp"
	haproxySplice = "HAProxy, mode tcp, splice-auto"
	nginxTCP      = "nginx, stream"
	copyLoop      = "read and write, 256 KiB"

	serveRaw       = "preflight serve, upgrade"
	servePlain     = "preflight serve, plain client"
	serveFramed    = "preflight serve, framed"
	serveWS        = "preflight serve, websocket"
	forwardRaw     = "preflight forward, upgrade"
	forwardFramed  = "preflight forward, framed"
	forwardWS      = "preflight forward, websocket"
	pairedServe    = "preflight serve, behind forward, websocket"
	pairedForward  = "preflight forward, before serve, websocket"
	ghostServer    = "ghostunnel server, TLS"
	ghostClient    = "ghostunnel client, TLS"
	chiselServer   = "chisel server, SSH in WebSocket"
	chiselClient   = "chisel client, SSH in WebSocket"
	wstunnelServer = "wstunnel server, WebSocket"
	wstunnelClient = "wstunnel client, WebSocket"
	maskedServer   = "wstunnel server, WebSocket with masks"
	maskedClient   = "wstunnel client, WebSocket with masks"
)

// A chain is one or two relays between a client and a server of this program.
type chain struct {
	client, server string // peers
	relays         []relayProgram
}

// A relayProgram is a program that listens, and relays to an address.
type relayProgram struct {
	row, binary string
	args        func(b *bench, at relayPlace) ([]string, error)
}

// A relayPlace is where a relay stands.
type relayPlace struct {
	listen string
	next   string // the address of the next relay, or of the server
	target string // the address of the server
}

// straight is the peer of the end that has no handshake of its own.
var straight = &peer{"TCP, no handshake", "nothing", listenStraight, dialStraight}

func listenStraight(_ *site, handle func(net.Conn)) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	go acceptAll(l, handle)
	return l.Addr().String(), nil
}

func dialStraight(s *site) (dialFunc, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		return s.net.DialContext(ctx, "tcp", address)
	}, nil
}

// flags are the arguments of a program that has no file. In them, LISTEN, NEXT and TARGET
// stand for the addresses, and CERT and KEY for the files of the site.
func flags(of string) func(*bench, relayPlace) ([]string, error) {
	return func(b *bench, at relayPlace) ([]string, error) {
		host, port, err := net.SplitHostPort(at.listen)
		replace := strings.NewReplacer("LISTEN", at.listen, "NEXT", at.next, "TARGET", at.target,
			"HOST", host, "PORT", port, "CERT", b.site.certFile(ecdsaKey), "KEY", b.site.keyFile(ecdsaKey), "PATH", target)
		args := strings.Fields(of)
		for i := range args {
			args[i] = replace.Replace(args[i])
		}
		return args, err
	}
}

// command is the binary of the command preflight, which the section builds. itself is this
// program.
const (
	command = "preflight"
	itself  = "bench"
)

const (
	serveFlags    = "serve --allow-all --listen LISTEN --to NEXT"
	forwardFlags  = "forward --listen LISTEN --carrier %s http://NEXTPATH"
	ghostFlags    = "%s --listen LISTEN --target NEXT --disable-authentication --quiet all"
	wstunnelFlags = "--log-lvl OFF"
)

func forwards(row string, carrier string) relayProgram {
	return relayProgram{row, command, flags(fmt.Sprintf(forwardFlags, carrier))}
}

// relayBinaries are programs that no package of Debian has. They are measured where they
// are in the PATH.
var relayBinaries = []string{"ghostunnel", "chisel", "wstunnel"}

// chains are measured side by side. The first relay is the one that others are compared
// with. A TLS or WebSocket client stands before each relay that ends its protocol, and a
// server of that kind behind each relay that begins it, so that a row is one process.
var chains = []chain{
	{straight.name, straight.name, []relayProgram{{haproxyTCP, "haproxy", haproxyArgs(false)}}},
	{straight.name, straight.name, []relayProgram{{haproxySplice, "haproxy", haproxyArgs(true)}}},
	{straight.name, straight.name, []relayProgram{{nginxTCP, "nginx", nginxArgs}}},
	{straight.name, straight.name, []relayProgram{{copyLoop, itself, flags(copyArg + " LISTEN NEXT")}}},
	{straight.name, straight.name, []relayProgram{{servePlain, command, flags(serveFlags)}}},
	{ours, straight.name, []relayProgram{{serveRaw, command, flags(serveFlags)}}},
	{framedTCP, straight.name, []relayProgram{{serveFramed, command, flags(serveFlags)}}},
	{framedWS, straight.name, []relayProgram{{serveWS, command, flags(serveFlags)}}},
	{straight.name, ours, []relayProgram{forwards(forwardRaw, "upgrade")}},
	{straight.name, ours, []relayProgram{forwards(forwardFramed, "framed")}},
	{straight.name, ours, []relayProgram{forwards(forwardWS, "websocket")}},
	{goTLS, straight.name, []relayProgram{{ghostServer, "ghostunnel", flags(fmt.Sprintf(ghostFlags, "server") + " --cert CERT --key KEY")}}},
	{straight.name, goTLS, []relayProgram{{ghostClient, "ghostunnel", flags(fmt.Sprintf(ghostFlags, "client") + " --cacert CERT")}}},
	{straight.name, straight.name, []relayProgram{
		forwards(pairedForward, "websocket"),
		{pairedServe, command, flags(serveFlags)},
	}},
	{straight.name, straight.name, []relayProgram{
		{chiselClient, "chisel", flags("client http://NEXT LISTEN:TARGET")},
		{chiselServer, "chisel", flags("server --host HOST --port PORT")},
	}},
	{straight.name, straight.name, []relayProgram{
		{wstunnelClient, "wstunnel", flags(wstunnelFlags + " client -L tcp://LISTEN:TARGET ws://NEXT")},
		{wstunnelServer, "wstunnel", flags(wstunnelFlags + " server ws://LISTEN")},
	}},
	{straight.name, straight.name, []relayProgram{
		{maskedClient, "wstunnel", flags(wstunnelFlags + " client -L tcp://LISTEN:TARGET --websocket-mask-frame ws://NEXT")},
		{maskedServer, "wstunnel", flags(wstunnelFlags + " server --websocket-mask-frame ws://LISTEN")},
	}},
}

var (
	//go:embed command-nginx.conf.tmpl
	relayNginx string
	//go:embed command-haproxy.cfg.tmpl
	relayHAProxy string
)

func haproxyArgs(splice bool) func(*bench, relayPlace) ([]string, error) {
	return func(b *bench, at relayPlace) ([]string, error) {
		file := filepath.Join(b.site.dir, "command-haproxy.cfg")
		return []string{"-db", "-f", file}, render(relayHAProxy, file, map[string]any{
			"Listen": at.listen, "To": at.next, "Splice": splice, "Conns": b.idleRelays() + relaysOthers,
		})
	}
}

func nginxArgs(b *bench, at relayPlace) ([]string, error) {
	file := filepath.Join(b.site.dir, "command-nginx.conf")
	return []string{"-c", file, "-e", "stderr"}, render(relayNginx, file, map[string]any{
		"Listen": at.listen, "To": at.next, "Module": nginxStream, "Root": os.Geteuid() == 0, "Dir": b.site.dir,
		"Files": 2 * (b.idleRelays() + relaysOthers),
	})
}

// chainsHere returns the chains whose programs are installed, and the names of those that
// are not. binaries has the path of each program.
func (b *bench) chainsHere() (here []chain, binaries map[string]string, missing []string) {
	binaries = map[string]string{command: filepath.Join(b.site.dir, command)}
	for _, c := range chains {
		name := c.relays[0].binary
		path, err := proxy{binary: name}.find()
		if name == itself {
			path, err = os.Executable()
		}
		if name == "nginx" && err == nil {
			_, err = os.Stat(nginxStream)
		}
		switch {
		case name == command:
		case err == nil:
			binaries[name] = path
		default:
			if len(missing) == 0 || missing[len(missing)-1] != name {
				missing = append(missing, name)
			}
			continue
		}
		here = append(here, c)
	}
	return here, binaries, missing
}

// buildCommand compiles the command preflight, once. It is a module of its own.
func (b *bench) buildCommand(ctx context.Context) error {
	program := filepath.Join(b.site.dir, command)
	if _, err := os.Stat(program); err == nil {
		return nil
	}
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/preflight-go/preflight")
	list.Stderr = os.Stderr
	dir, err := list.Output()
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	build.Dir = filepath.Join(strings.TrimSpace(string(dir)), "cmd", "preflight")
	build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	return build.Run()
}
