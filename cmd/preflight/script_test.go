package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight/cmd/preflight/internal/relay"
	"github.com/rogpeppe/go-internal/testscript"
)

type processes struct{}

// A process is a preflight that runs in the background of a script.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu      sync.Mutex
	output  bytes.Buffer
	changed chan struct{} // closed when output grows
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
	return p.output.Write(b)
}

// await waits until the process has logged what pattern matches.
func (p *process) await(ts *testscript.TestScript, pattern string) []string {
	re, err := regexp.Compile(`(?m)` + pattern)
	ts.Check(err)
	for limit := time.After(timeout); ; {
		p.mu.Lock()
		match, text, changed := re.FindStringSubmatch(p.output.String()), p.output.String(), p.changed
		p.mu.Unlock()
		if match != nil {
			return match
		}
		select {
		case <-changed:
			continue
		case <-p.done:
			if match := re.FindStringSubmatch(p.text()); match != nil {
				return match
			}
			ts.Fatalf("it has ended, and has not logged %s:\n%s", pattern, text)
		case <-limit:
			ts.Fatalf("it does not log %s:\n%s", pattern, text)
		}
	}
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

func lookup(ts *testscript.TestScript, name string) *process {
	p := ts.Value(processes{}).(map[string]*process)[name]
	if p == nil {
		ts.Fatalf("nothing named %s was started", name)
	}
	return p
}

// start NAME ARGS... runs preflight with ARGS in the background. It waits until that listens,
// and sets the variable NAME to the address, and NAME2 to the second one.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME ARGS...")
	}
	name, args := args[0], args[1:]
	p := &process{cmd: exec.Command(ts.Getenv("PREFLIGHT"), args...), done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Dir = ts.Getenv("WORK")
	p.cmd.Env = scriptEnv(ts)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	stdin, err := p.cmd.StdinPipe() // stays open
	ts.Check(err)
	ts.Check(p.cmd.Start())
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	ts.Defer(func() {
		stdin.Close()
		p.cmd.Process.Kill()
		<-p.done
	})
	ts.Value(processes{}).(map[string]*process)[name] = p
	pattern, n := "", 0
	for _, a := range args {
		if a == "--listen" || a == "--map" {
			n++
			pattern += `(?s:.*?)(?:msg=listening address=|"msg":"listening","address":")([^\s"]+)`
		}
	}
	for i, address := range p.await(ts, pattern)[1:] {
		if strings.HasPrefix(address, "/") {
			address = "unix:" + address
		}
		if i > 0 {
			name += fmt.Sprint(i + 1)
		}
		ts.Setenv(name, address)
	}
}

// environment variables that a script may set for preflight.
var passed = []string{"PATH", "HOME", "TMPDIR", "WORK", "HTTPS_PROXY", "NO_PROXY", "GORACE", "GOCOVERDIR", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"}

func scriptEnv(ts *testscript.TestScript) (env []string) {
	for _, name := range passed {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// signal NAME TERM|INT|HUP|KILL sends a signal.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	s := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}[args[1]]
	ts.Check(lookup(ts, args[0]).cmd.Process.Signal(s))
}

// ended NAME CODE waits until the process has ended, with this exit code.
func ended(ts *testscript.TestScript, neg bool, args []string) {
	p := lookup(ts, args[0])
	select {
	case <-p.done:
	case <-time.After(timeout):
		ts.Fatalf("it does not end:\n%s", p.text())
	}
	if code := fmt.Sprint(p.cmd.ProcessState.ExitCode()); code != args[1] {
		ts.Fatalf("the exit code is %s:\n%s", code, p.text())
	}
}

// expand FILE replaces $NAME in the file by the variable.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// free NAME sets the variable to a TCP address at which nothing listens now.
func free(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], l.Addr().String())
}

// gates are the closed gates of a script, by name.
type gates struct{}

// gate NAME sets the variable to the address of a gate that is closed: a connection to it
// stays open until "open NAME".
func gate(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Value(gates{}).(map[string]net.Listener)[args[0]] = l
	ts.Setenv(args[0], l.Addr().String())
}

// open NAME opens a gate. The connections in the backlog of its listener end.
func open(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Value(gates{}).(map[string]net.Listener)[args[0]].Close())
}

// logged NAME PATTERN waits until the process has logged it. "! logged" requires that it has
// not, until now.
func logged(ts *testscript.TestScript, neg bool, args []string) {
	p := lookup(ts, args[0])
	if neg {
		if text := p.text(); regexp.MustCompile(args[1]).MatchString(text) {
			ts.Fatalf("it has logged %s:\n%s", args[1], text)
		}
		return
	}
	p.await(ts, args[1])
}

// server NAME KIND [ADDRESS] runs a TCP server, and sets the variable NAME to its address.
func server_(ts *testscript.TestScript, neg bool, args []string) {
	network, address := "tcp", "127.0.0.1:0"
	if len(args) > 2 {
		address = args[2]
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			network, address = "unix", path
		}
	}
	serve, ok := servers[args[1]]
	if args[1] == "connect" {
		// A forward proxy that leads each CONNECT to one address, whatever it names.
		toNetwork, to := network, address
		network, address = "tcp", "127.0.0.1:0"
		serve, ok = func(c net.Conn, _ <-chan struct{}) { serveConnect(c, toNetwork, to) }, true
	}
	if !ok {
		ts.Fatalf("no server %s", args[1])
	}
	l, err := net.Listen(network, address)
	ts.Check(err)
	stopped := make(chan struct{})
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				serve(c, stopped)
			})
		}
	})
	ts.Defer(func() {
		close(stopped)
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	ts.Setenv(args[0], network+":"+l.Addr().String())
	if network == "tcp" {
		ts.Setenv(args[0], l.Addr().String())
	}
}

func serveConnect(c net.Conn, network, to string) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil || r.Method != "CONNECT" {
		return
	}
	server, err := net.Dial(network, to)
	if err != nil {
		return
	}
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	relay.Run(c.(relay.Conn), server.(relay.Conn), timeout)
}

var servers = map[string]func(c net.Conn, stopped <-chan struct{}){
	// Answers when the client has ended its direction, and not before.
	"echo": func(c net.Conn, _ <-chan struct{}) {
		b, err := io.ReadAll(c)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "echo: %s", b)
	},
	"second": func(c net.Conn, _ <-chan struct{}) {
		io.Copy(io.Discard, c)
		io.WriteString(c, "the second server")
	},
	// Speaks first.
	"hello": func(c net.Conn, _ <-chan struct{}) { io.WriteString(c, "hello\n") },
	// Never ends by itself.
	"hold": func(c net.Conn, stopped <-chan struct{}) {
		io.WriteString(c, "held\n")
		io.Copy(io.Discard, c)
		<-stopped
	},
	// Sends more than fits into any buffer.
	"flood": func(c net.Conn, stopped <-chan struct{}) {
		b := make([]byte, 1<<20)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	},
	"reset": func(c net.Conn, _ <-chan struct{}) {
		c.Read(make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
	},
	"proxy": func(c net.Conn, _ <-chan struct{}) {
		p := proxyproto.NewConn(c)
		h := p.ProxyHeader()
		b, _ := io.ReadAll(p)
		if h == nil {
			fmt.Fprintf(c, "no header: %s", b)
			return
		}
		fmt.Fprintf(c, "version %d from %v: %s", h.Version, h.SourceAddr, b)
	},
}
