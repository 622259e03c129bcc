// Package broker is a small publish/subscribe server. It serves connections, and knows nothing
// of HTTP, WebSocket or proxies. It stands for the server that a user already has.
package broker

import (
	"encoding/json"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// A Line is a message between a client and the broker. Each is a JSON object in a line of its
// own:
//
//	{"c":"subscribe","t":"greetings"}                            client: send me what is published here
//	{"c":"subscribed","t":"greetings"}                           broker: from now on
//	{"c":"publish","t":"greetings","n":1,"d":{"hello":"world"}}  client
//	{"c":"message","t":"greetings","n":1,"d":{"hello":"world"}}  broker, to every subscriber
type Line struct {
	Command string          `json:"c"`
	Topic   string          `json:"t"`
	Number  int             `json:"n,omitempty"` // counts the messages of a publisher; the broker passes it on
	Data    json.RawMessage `json:"d,omitempty"`
}

// maxLine bounds the memory that a client can use in the broker.
const maxLine = 64 << 10

// A Broker sends what a client publishes to the clients that have subscribed. The zero Broker is
// ready to use. Its methods may be called at the same time.
type Broker struct {
	sessions sync.WaitGroup

	// mu is also held while a line is sent. Therefore all subscribers get the same messages
	// in the same order, after the answer of the broker.
	mu      sync.Mutex
	clients []*client
	closed  bool
}

type client struct {
	conn                net.Conn
	topics              map[string]bool
	published, received int
}

// A Client is a connection to the broker, with the number of its messages.
type Client struct {
	Conn                net.Conn
	Published, Received int
}

// Clients returns the clients that are connected, in the order in which they came.
func (b *Broker) Clients() []Client {
	b.mu.Lock()
	defer b.mu.Unlock()
	var clients []Client
	for _, c := range b.clients {
		clients = append(clients, Client{c.conn, c.published, c.received})
	}
	return clients
}

// Serve serves each client that ln accepts, until ln is closed.
func (b *Broker) Serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go b.Talk(conn)
	}
}

// Talk serves one client until its connection ends.
func (b *Broker) Talk(conn net.Conn) {
	defer conn.Close()
	c := &client{conn: conn, topics: make(map[string]bool)}
	if !b.join(c) {
		return
	}
	defer b.leave(c)
	limited := &io.LimitedReader{R: conn}
	for lines := json.NewDecoder(limited); ; {
		limited.N = maxLine
		var l Line
		if lines.Decode(&l) != nil {
			return
		}
		b.execute(c, l)
	}
}

func (b *Broker) execute(c *client, l Line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch l.Command {
	case "subscribe":
		c.topics[l.Topic] = true
		c.send(Line{Command: "subscribed", Topic: l.Topic})
	case "publish":
		c.published++
		l.Command = "message"
		for _, subscriber := range b.clients {
			if subscriber.topics[l.Topic] {
				subscriber.received++
				subscriber.send(l)
			}
		}
	default:
		c.send(Line{Command: "unknown", Topic: l.Topic})
	}
}

// send closes a client that does not read its lines. It would block all others.
func (c *client) send(l Line) {
	c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	// The deadline of a WebSocket would fail the next write, if it passed before that.
	defer c.conn.SetWriteDeadline(time.Time{})
	// An Encoder writes a line feed after each value.
	if json.NewEncoder(c.conn).Encode(l) != nil {
		c.conn.Close()
	}
}

func (b *Broker) join(c *client) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.sessions.Add(1)
	b.clients = append(b.clients, c)
	return true
}

func (b *Broker) leave(c *client) {
	c.conn.Close()
	b.mu.Lock()
	b.clients = slices.DeleteFunc(b.clients, func(other *client) bool { return other == c })
	b.mu.Unlock()
	b.sessions.Done()
}

// Close closes all connections, and waits until no client is served any more.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	for _, c := range b.clients {
		c.conn.Close()
	}
	b.mu.Unlock()
	b.sessions.Wait()
}
