package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

// A unixDialer dials one socket, and ignores the address that it is given.
type unixDialer string

func (d unixDialer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", string(d))
}

// startNginx runs nginx with the shipped file. Here its ports are Unix sockets, which no other
// process can take.
func startNginx(t *testing.T, p *program) (plain, secure unixDialer) {
	t.Helper()
	text, err := os.ReadFile("nginx.conf")
	require.NoError(t, err)
	dir := t.TempDir()
	plain, secure = unixDialer(filepath.Join(dir, "plain.sock")), unixDialer(filepath.Join(dir, "tls.sock"))
	conf := string(text)
	for from, to := range map[string]string{
		"listen 127.0.0.1:8080;":     "listen unix:" + string(plain) + ";",
		"listen 127.0.0.1:8443 ssl;": "listen unix:" + string(secure) + " ssl;",
		"server 127.0.0.1:9007;":     "server " + p.address + ";",
	} {
		require.Equal(t, 1, strings.Count(conf, from), from)
		conf = strings.Replace(conf, from, to, 1)
	}
	for name, from := range map[string]string{"cert.pem": p.cert, "key.pem": p.key} {
		file, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), file, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644))

	program := "nginx"
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/nginx" // the PATH of ordinary users lacks this folder of Debian
	}
	cmd := exec.Command(program, "-p", dir, "-c", "nginx.conf")
	var log bytes.Buffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start(), "this test runs nginx: apt-get install nginx-light")
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		cmd.Wait() // the log says more than the error
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // nginx then ends its workers
		<-exited
	})
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for timeout := time.After(limit); ; {
		if conn, err := net.Dial("unix", string(secure)); err == nil {
			conn.Close()
			return plain, secure
		}
		select {
		case <-retry.C:
		case <-exited:
			require.FailNow(t, "nginx has ended", log.String())
		case <-timeout:
			require.FailNow(t, "nginx does not listen")
		}
	}
}

// TestThroughNginx requires that the shipped nginx file routes each kind of client to the
// server, without TLS and with TLS, and routes no other path there.
func TestThroughNginx(t *testing.T) {
	p := start(t, func(cfg *config) { cfg.user, cfg.token = "ann", "s3cret" })
	plain, secure := startNginx(t, p)
	bearer := http.Header{"Authorization": {"Bearer s3cret"}}
	trusted := &tls.Config{RootCAs: p.roots, ServerName: "127.0.0.1"}

	tunnel := func(socket unixDialer, path string, header http.Header, config *tls.Config) (*client, error) {
		d := &preflight.PreflightDialer{NetDialer: socket, Path: path, Header: header, TLSConfig: config}
		if config != nil {
			d.Protocol = "tcps" // as the AMPS clients do
		}
		conn, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:80")
		return &client{t: t, conn: conn}, err
	}
	webSocket := func(socket unixDialer, url string, header http.Header) (*client, error) {
		transport := &http.Transport{DialContext: socket.DialContext, TLSClientConfig: trusted}
		ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: header, HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			return nil, err
		}
		return &client{t: t, ws: ws}, ws.Write(t.Context(), websocket.MessageText, []byte("text"))
	}
	dial := map[string]func(client, ws string, header http.Header) (*client, error){
		"tunnel": func(path, _ string, header http.Header) (*client, error) {
			return tunnel(plain, path, header, nil)
		},
		"tunnel by TLS": func(path, _ string, header http.Header) (*client, error) {
			return tunnel(secure, path, header, trusted)
		},
		"WebSocket": func(_, path string, header http.Header) (*client, error) {
			return webSocket(plain, "ws://127.0.0.1:8080"+path, header)
		},
		"WebSocket by TLS": func(_, path string, header http.Header) (*client, error) {
			return webSocket(secure, "wss://127.0.0.1"+path, header)
		},
	}
	for way, dial := range dial {
		t.Run(way, func(t *testing.T) {
			c, err := dial("/client/amps/json", "/ws/amps/json", bearer)
			require.NoError(t, err)
			t.Cleanup(c.close)
			require.Equal(t, "success", c.ask(`{"c":"logon","cid":"1","a":"processed","client_name":"`+way+`"}`).str("status"))
			c.ask(`{"c":"subscribe","cid":"1","sub_id":"s","t":"` + way + `","a":"processed"}`)
			const n = 1000
			for i := range n {
				c.send(`{"c":"publish","t":"`+way+`"}`, fmt.Sprint(i))
			}
			for i := range n {
				require.Equal(t, fmt.Sprint(i), c.want().body)
			}

			_, err = dial("/client/amps/json", "/ws/amps/json", nil)
			requireStatus(t, err, http.StatusUnauthorized)
			_, err = dial("/client/amps/fix", "/ws/amps/fix", bearer)
			requireStatus(t, err, http.StatusNotFound)
			_, err = dial("/amps/json", "/amps/json", bearer)
			requireStatus(t, err, http.StatusNotFound)

			// Only a page that came through nginx may connect.
			if strings.HasPrefix(way, "WebSocket") {
				origin := http.Header{"Authorization": bearer["Authorization"], "Origin": {"http://127.0.0.1:8080"}}
				if way == "WebSocket by TLS" {
					origin.Set("Origin", "https://127.0.0.1")
				}
				c, err := dial("", "/ws/amps/json", origin)
				require.NoError(t, err)
				c.close()
				origin.Set("Origin", "https://evil.example")
				_, err = dial("", "/ws/amps/json", origin)
				requireStatus(t, err, http.StatusForbidden)
			}
		})
	}
}
