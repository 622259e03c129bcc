package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// listenHTTP serves h with an http.Server.
func listenHTTP(h http.HandlerFunc) (string, error) {
	l, err := listenLoopback()
	if err != nil {
		return "", err
	}
	go func() { log.Fatal(http.Serve(l, h)) }()
	return l.Addr().String(), nil
}

// A bufferedConn reads through a buffer that may hold what arrived with a head.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func listenNetHTTP(_ *site, handle func(net.Conn)) (string, error) {
	return listenHTTP(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "tcp" {
			http.Error(w, "an upgrade is required", http.StatusUpgradeRequired)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		if _, err := c.Write(switching); err != nil {
			c.Close()
			return
		}
		// In the goroutine of the handler, its stack would stay in use too.
		go handle(&bufferedConn{c, rw.Reader})
	})
}

func dialNetHTTP(s *site) (dialFunc, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		c, err := s.net.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		r, err := upgradeByHand(ctx, c, address)
		if err != nil {
			c.Close()
			return nil, err
		}
		return &bufferedConn{c, r}, nil
	}, nil
}

func upgradeByHand(ctx context.Context, c net.Conn, address string) (*bufio.Reader, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+target, nil)
	if err != nil {
		return nil, err
	}
	req.Header = fields.Clone()
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	if err := req.Write(c); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	answer, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Upgrade") != "tcp" {
		return nil, fmt.Errorf("answered %s", answer.Status)
	}
	return r, nil
}

// A coderConn closes without the closing handshake, as the others do.
type coderConn struct {
	net.Conn
	ws *coder.Conn
}

func (c *coderConn) Close() error { return c.ws.CloseNow() }

func newCoderConn(ws *coder.Conn) net.Conn {
	return &coderConn{coder.NetConn(context.Background(), ws, coder.MessageBinary), ws}
}

func listenCoder(_ *site, handle func(net.Conn)) (string, error) {
	return listenHTTP(func(w http.ResponseWriter, r *http.Request) {
		ws, err := coder.Accept(w, r, nil)
		if err != nil {
			return // it has sent the error
		}
		go handle(newCoderConn(ws))
	})
}

func dialCoder(s *site) (dialFunc, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: s.net.DialContext}}
	return func(ctx context.Context, address string) (net.Conn, error) {
		ws, _, err := coder.Dial(ctx, "ws://"+address+target, &coder.DialOptions{HTTPClient: client, HTTPHeader: fields})
		if err != nil {
			return nil, err
		}
		return newCoderConn(ws), nil
	}, nil
}

// A gorillaConn reads and writes binary messages. gorilla/websocket has no
// net.Conn of its own.
type gorillaConn struct {
	net.Conn
	ws      *gorilla.Conn
	message io.Reader
}

func (c *gorillaConn) Write(b []byte) (int, error) {
	if err := c.ws.WriteMessage(gorilla.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *gorillaConn) Read(b []byte) (int, error) {
	for {
		if c.message == nil {
			_, r, err := c.ws.NextReader()
			if err != nil {
				return 0, err
			}
			c.message = r
		}
		n, err := c.message.Read(b)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func newGorillaConn(ws *gorilla.Conn) net.Conn { return &gorillaConn{Conn: ws.NetConn(), ws: ws} }

func listenGorilla(_ *site, handle func(net.Conn)) (string, error) {
	upgrader := new(gorilla.Upgrader)
	return listenHTTP(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return // it has sent the error
		}
		go handle(newGorillaConn(ws))
	})
}

func dialGorilla(s *site) (dialFunc, error) {
	d := &gorilla.Dialer{NetDialContext: s.net.DialContext}
	return func(ctx context.Context, address string) (net.Conn, error) {
		ws, _, err := d.DialContext(ctx, "ws://"+address+target, fields)
		if err != nil {
			return nil, err
		}
		return newGorillaConn(ws), nil
	}, nil
}
