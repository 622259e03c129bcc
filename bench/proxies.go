package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"text/template"
	"time"
)

const keyProxies = "proxies"

const proxyCPU = "proxy CPU"

var (
	//go:embed nginx.conf.tmpl
	nginxConfig string
	//go:embed haproxy.cfg.tmpl
	haproxyConfig string
)

// A proxy is a reverse proxy with a port that understands HTTP, and one that
// passes TCP through.
type proxy struct {
	name, binary, stream string
	config               string
	args                 func(file string) []string
}

var proxies = []proxy{
	{"nginx", "nginx", "stream", nginxConfig, func(file string) []string { return []string{"-c", file, "-e", "stderr"} }},
	{"HAProxy", "haproxy", "mode tcp", haproxyConfig, func(file string) []string { return []string{"-db", "-f", file} }},
}

// nginxStream is where distributions install the stream module, which nginx-light lacks.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

func (p proxy) find() (path string, err error) {
	if path, err = exec.LookPath(p.binary); err != nil { // the PATH of ordinary users lacks /usr/sbin in Debian
		path, err = exec.LookPath("/usr/sbin/" + p.binary)
	}
	return path, err
}

// A front is an address of a running proxy.
type front struct {
	row, address string
	pid          int
}

func proxyRows() []string {
	rows := []string{direct}
	for _, p := range proxies {
		rows = append(rows, p.name+", "+p.stream, p.name+", http")
	}
	return rows
}

const direct = "without a proxy"

// throughProxies measures the same handshake through the HTTP and the TCP port of
// real proxies. It omits proxies that are not installed.
func (b *bench) throughProxies(ctx context.Context) (*section, error) {
	const title = "Through reverse proxies"
	o := order{Op: "handshake", N: b.one, Dialers: goodDialers}
	s := &section{
		key: keyProxies, title: title,
		text: fmt.Sprintf("preflight's handshake, %d times in each of %d repetitions, with %d dialers: without a proxy, through a TCP port of the proxy, and through an HTTP port of the same proxy. If a proxy is not installed, its rows are empty.",
			o.N, b.few, o.Dialers),
		columns: []column{
			ratio("time, ratio", elapsed), median("per s", rate, "%.0f"), median("p50 µs", latency, "%.0f"),
			median("proxy CPU", proxyCPU, "%.0f"), median("server CPU", serverCPU, "%.0f"), median("client CPU", clientCPU, "%.0f"),
		},
		samples: newSamples(proxyRows()...),
	}
	pair, err := b.pair(ctx, ours)
	if err != nil {
		return nil, err
	}
	defer pair.stop()
	fronts := []front{{direct, pair.server.hello.Address, 0}}
	for _, p := range proxies {
		of, stop, err := b.launch(ctx, p, pair.server.hello.Address)
		if err != nil {
			return nil, err
		}
		defer stop()
		fronts = append(fronts, of...)
	}
	return s, b.repeat(title, b.few, len(fronts), func(i int, first bool) error {
		f := fronts[i]
		o.Address = f.address
		if first {
			if _, _, err := pair.order(o); err != nil {
				return err
			}
		}
		before, err := cpuOf(f.pid)
		if err != nil {
			return err
		}
		client, server, err := pair.order(o)
		if err != nil {
			return err
		}
		after, err := cpuOf(f.pid)
		if err != nil {
			return err
		}
		s.samples.handshake(f.row, o.N, client, server)
		if f.pid != 0 {
			s.samples.add(f.row, proxyCPU, micros(after-before, o.N))
		}
		return nil
	})
}

// cpuOf returns the CPU time of all threads of a process that does not report it itself.
func cpuOf(pid int) (sum time.Duration, err error) {
	files, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/schedstat"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		var ns int64 // the first of three fields: Documentation/scheduler/sched-stats of the kernel
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// launch runs a proxy in front of backend until stop is called. If the proxy is not
// installed, there are no fronts.
func (b *bench) launch(ctx context.Context, p proxy, backend string) (of []front, stop func(), err error) {
	binary, err := p.find()
	if err != nil {
		fmt.Fprintf(b.progress, "%s is not installed\n", p.name)
		return nil, func() {}, nil
	}
	_, err = os.Stat(nginxStream)
	rows := []string{p.name + ", http"}
	if p.binary != "nginx" || err == nil {
		rows = append(rows, p.name+", "+p.stream)
	}
	const attempts = 5
	for range attempts {
		addresses, err := freeAddresses(2)
		if err != nil {
			return nil, nil, err
		}
		file := filepath.Join(b.site.dir, p.binary+".conf")
		data := map[string]any{"Root": os.Geteuid() == 0, "Dir": b.site.dir, "HTTP": addresses[0], "Backend": backend, "Module": nginxStream}
		if len(rows) > 1 {
			data["Stream"] = addresses[1]
		}
		if err := render(p.config, file, data); err != nil {
			return nil, nil, err
		}
		cmd := exec.CommandContext(ctx, binary, p.args(file)...)
		cmd.Stderr = os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = patience
		if err := cmd.Start(); err != nil {
			return nil, nil, err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			cmd.Wait() // its errors go to stderr
		}()
		stop := func() {
			cmd.Process.Signal(syscall.SIGTERM)
			<-ended
		}
		// Another process can take a port after freeAddresses has found it.
		if !listens(addresses[0], ended) {
			stop()
			continue
		}
		for i, row := range rows {
			of = append(of, front{row, addresses[i], cmd.Process.Pid})
		}
		return of, stop, nil
	}
	return nil, nil, fmt.Errorf("%s does not start", p.name)
}

// listens waits until a process accepts at address, or has ended.
func listens(address string, ended chan struct{}) bool {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	timeout := time.After(patience)
	for {
		select {
		case <-ended:
			return false
		case <-timeout:
			return false
		case <-poll.C:
			if c, err := net.Dial("tcp", address); err == nil {
				c.Close()
				return true
			}
		}
	}
}

func render(text, file string, data any) error {
	t, err := template.New(file).Option("missingkey=zero").Parse(text)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(t.Execute(f, data), f.Close())
}

// freeAddresses returns addresses with ports that nothing uses now.
func freeAddresses(n int) ([]string, error) {
	addresses := make([]string, n)
	for i := range addresses {
		l, err := listenLoopback()
		if err != nil {
			return nil, err
		}
		defer l.Close() // not earlier: the ports must differ
		addresses[i] = l.Addr().String()
	}
	return addresses, nil
}
