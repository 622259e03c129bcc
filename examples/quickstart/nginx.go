package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"text/template"
	"time"
)

//go:embed nginx.conf.tmpl
var nginxConfText string

var nginxConf = template.Must(template.New("nginx.conf").Parse(nginxConfText))

// The PATH of ordinary users lacks the folder in which Debian installs nginx.
var nginxPaths = []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"}

// startNginx runs an nginx that writes all of its files to a temporary directory.
func startNginx(ctx context.Context, listen string, to backends) (string, func() error, error) {
	program, err := find(nginxPaths)
	if err != nil {
		return "", nil, err
	}
	actual, err := freeAddress(listen)
	if err != nil {
		return "", nil, err
	}
	n, err := newNginx(actual, to)
	if err != nil {
		return "", nil, err
	}
	if err := n.start(program); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(n.dir))
	}
	if err := n.wait(ctx, actual); err != nil {
		ended := n.end()
		return "", nil, errors.Join(fmt.Errorf("%w; its error log:\n%s", err, &n.log), ended)
	}
	return actual, n.stop, nil
}

type nginx struct {
	dir    string
	cancel context.CancelFunc
	exited chan struct{}
	log    bytes.Buffer // must not be read before nginx has exited
}

// newNginx creates the directory and writes the configuration.
func newNginx(listen string, to backends) (*nginx, error) {
	var conf bytes.Buffer
	values := map[string]string{"Listen": listen, "TCP": to.tcp, "WS": to.ws, "Admin": to.admin}
	if err := nginxConf.Execute(&conf, values); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "quickstart-nginx-")
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "nginx.conf"), conf.Bytes(), 0o644),
		// If root starts it, nginx changes to another user, who needs access to the
		// temporary files.
		os.Chmod(dir, 0o711),
	)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &nginx{dir: dir, exited: make(chan struct{})}, nil
}

func (n *nginx) start(program string) error {
	// The context of the caller ends at Ctrl-C. nginx must still forward the last messages
	// after that.
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-p", n.dir, "-c", "nginx.conf")
	cmd.Stderr = &n.log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // nginx then ends its workers
	cmd.WaitDelay = timeout
	withoutCtrlC(cmd)
	if err := cmd.Start(); err != nil {
		cancel()
		return err
	}
	n.cancel = cancel
	go func() {
		defer close(n.exited)
		cmd.Wait() // the log says more than the error
	}()
	return nil
}

// wait waits until nginx accepts connections.
func (n *nginx) wait(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-retry.C:
		case <-n.exited:
			return errors.New("nginx did not start")
		case <-ctx.Done():
			return fmt.Errorf("nginx accepts no connections (%w)", err)
		}
	}
}

// stop ends nginx. It returns an error if nginx had ended before.
func (n *nginx) stop() error {
	select {
	case <-n.exited:
		return errors.Join(fmt.Errorf("nginx ended by itself; its error log:\n%s", &n.log), n.end())
	default:
		return n.end()
	}
}

func (n *nginx) end() error {
	n.cancel()
	<-n.exited
	return os.RemoveAll(n.dir)
}

// find returns the first of the programs that is installed.
func find(programs []string) (string, error) {
	for _, program := range programs {
		if path, err := exec.LookPath(program); err == nil {
			return path, nil
		}
	}
	return "", errors.New("nginx is not installed: apt-get install nginx, brew install nginx, or go without it by -proxy go")
}

// freeAddress verifies that nothing listens on the address, and replaces the port 0, which
// nginx does not support.
func freeAddress(listen string) (string, error) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
