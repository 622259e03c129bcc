package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/wire"
)

// A feat is work that is done in memory, so that nothing else is measured.
type feat struct {
	group, name string
	do          func() error
}

const memoryAddress = "edge.example:80"

// feats are in groups. The others of a group are compared with the first one.
var feats = []feat{
	{"parse a request", "preflight", parseRequest},
	{"parse a request", "http.ReadRequest, reader kept", parseKept(readRequest, request(memoryAddress))},
	{"parse a request", "http.ReadRequest, new reader", parseNew(readRequest, request(memoryAddress))},
	{"parse an answer", "preflight", parseAnswer},
	{"parse an answer", "http.ReadResponse, reader kept", parseKept(readAnswer, switching)},
	{"parse an answer", "http.ReadResponse, new reader", parseNew(readAnswer, switching)},
	{"server exchange", "preflight.Server", serveInMemory},
	{"server exchange", "http.ReadRequest and a prepared 101", serveByHand},
	{"client exchange", "preflight.Client", dialInMemory},
	{"client exchange", "http.Request.Write and ReadResponse", dialByHand},
}

func (f feat) String() string { return f.group + ": " + f.name }

// inMemory does the feat that an order names, as often as the order says.
func inMemory(o order) (a answer, err error) {
	for _, f := range feats {
		if f.String() != o.Op {
			continue
		}
		for range o.N {
			if err := f.do(); err != nil {
				return a, err
			}
		}
		return a, nil
	}
	return a, fmt.Errorf("there is no feat %q", o.Op)
}

var memoryRequest = request(memoryAddress)

func parseRequest() error {
	n, broken := wire.RequestEnd(memoryRequest, 0)
	if broken != nil {
		return broken
	}
	var r wire.Request
	if broken := r.Parse(memoryRequest[:n]); broken != nil {
		return broken
	}
	terms, broken := r.Terms(&tcpOnly)
	if broken != nil || terms.Protocol != "tcp" {
		return errors.New("it is an upgrade request")
	}
	return nil
}

var tcpOnly = wire.Offer{Protocols: []string{"tcp"}, Upgrade: true}

func parseAnswer() error {
	var r wire.Response
	broken := r.Parse(switching[:wire.ResponseEnd(switching, 0)])
	if broken == nil {
		broken = r.Switched(&rawTerms, "")
	}
	if broken != nil {
		return broken
	}
	return nil
}

func readRequest(r *bufio.Reader) error {
	_, err := http.ReadRequest(r)
	return err
}

func readAnswer(r *bufio.Reader) error {
	_, err := http.ReadResponse(r, nil)
	return err
}

func parseKept(read func(*bufio.Reader) error, head []byte) func() error {
	from := bytes.NewReader(head)
	r := bufio.NewReader(from)
	return func() error {
		from.Reset(head)
		r.Reset(from)
		return read(r)
	}
}

func parseNew(read func(*bufio.Reader) error, head []byte) func() error {
	from := bytes.NewReader(head)
	return func() error {
		from.Reset(head)
		return read(bufio.NewReader(from))
	}
}

// A memoryConn reads in, and discards what is written.
type memoryConn struct {
	net.Conn
	in            []byte
	read, written int
}

func (c *memoryConn) Read(b []byte) (int, error) {
	n := copy(b, c.in[c.read:])
	if c.read += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *memoryConn) Write(b []byte) (int, error) {
	c.written += len(b)
	return len(b), nil
}

func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) RemoteAddr() net.Addr             { return loopback }
func (c *memoryConn) LocalAddr() net.Addr              { return loopback }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

var (
	loopback     = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	memoryServer = &memoryConn{in: memoryRequest}
	memoryClient = &memoryConn{in: switching}
)

func serveInMemory() error {
	memoryServer.read, memoryServer.written = 0, 0
	_, err := preflight.Server(context.Background(), memoryServer)
	if err == nil && memoryServer.written != len(switching) {
		err = errors.New("it has not been answered 101")
	}
	return err
}

func serveByHand() error {
	memoryServer.read = 0
	r, err := http.ReadRequest(bufio.NewReader(memoryServer))
	if err != nil {
		return err
	}
	if r.Header.Get("Upgrade") != "tcp" {
		return errors.New("it is an upgrade request")
	}
	_, err = memoryServer.Write(switching)
	return err
}

// newMemoryRequest returns a request as a caller of Client creates it.
func newMemoryRequest() (*http.Request, error) {
	r, err := http.NewRequest(http.MethodGet, "http://"+memoryAddress+target, nil)
	if err == nil {
		r.Header = fields
	}
	return r, err
}

func dialInMemory() error {
	memoryClient.read = 0
	r, err := newMemoryRequest()
	if err == nil {
		_, err = preflight.Client(context.Background(), memoryClient, r)
	}
	return err
}

func dialByHand() error {
	memoryClient.read = 0
	_, err := upgradeByHand(context.Background(), memoryClient, memoryAddress)
	return err
}
