package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/preflight-go/preflight/examples/quickstart/broker"
)

// publish sends one message.
func publish(conn net.Conn, number int) error {
	conn.SetWriteDeadline(time.Now().Add(timeout))
	err := json.NewEncoder(conn).Encode(broker.Line{Command: "publish", Topic: topic, Number: number, Data: []byte(greeting)})
	if err != nil {
		return fmt.Errorf("publish message %d: %w", number, err)
	}
	return nil
}

// A subscriber receives the messages of the topic.
type subscriber struct {
	name    string
	conn    net.Conn
	lines   *json.Decoder
	arrived []int // the numbers of the messages

	closing, ended chan struct{}
}

// An arrival is a line that a subscriber has received, or the error that ended its
// connection.
type arrival struct {
	at   *subscriber
	line broker.Line
	err  error
}

func subscribeByWebSocket(ctx context.Context, url string, arrivals chan<- arrival) (*subscriber, error) {
	c, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	// ctx ends after the setup, and the connection must stay open.
	conn := websocket.NetConn(context.Background(), c, websocket.MessageText)
	return subscribe("WebSocket subscriber", conn, arrivals)
}

// subscribeByTCP stands for a client that the server already has. It needs no library.
func subscribeByTCP(ctx context.Context, address string, arrivals chan<- arrival) (*subscriber, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return subscribe("plain TCP subscriber", conn, arrivals)
}

// subscribe returns when the server has acknowledged the subscription. It sends what arrives
// after that to arrivals, until close.
func subscribe(name string, conn net.Conn, arrivals chan<- arrival) (*subscriber, error) {
	s := &subscriber{
		name: name, conn: conn, lines: json.NewDecoder(conn),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	conn.SetDeadline(time.Now().Add(timeout))
	err := json.NewEncoder(conn).Encode(broker.Line{Command: "subscribe", Topic: topic})
	var answer broker.Line
	if err == nil {
		err = s.lines.Decode(&answer)
	}
	if err == nil && answer.Command != "subscribed" {
		err = fmt.Errorf("the server answered %q", answer.Command)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("the %s got no acknowledgement: %w", name, err)
	}
	conn.SetDeadline(time.Time{})
	go s.receive(arrivals)
	return s, nil
}

func (s *subscriber) receive(arrivals chan<- arrival) {
	defer close(s.ended)
	for {
		a := arrival{at: s}
		a.err = s.lines.Decode(&a.line)
		select {
		case arrivals <- a:
		case <-s.closing:
			return
		}
		if a.err != nil {
			return
		}
	}
}

func (s *subscriber) close() {
	close(s.closing)
	s.conn.Close()
	<-s.ended
}

// arrive records a message of the publisher. It ignores messages of other publishers, which a
// user may run if the program runs until Ctrl-C.
func (s *subscriber) arrive(l broker.Line) {
	if l.Number > 0 && string(l.Data) == greeting {
		s.arrived = append(s.arrived, l.Number)
	}
}

// has reports whether a message has arrived.
func (s *subscriber) has(number int) bool { return slices.Contains(s.arrived, number) }

// check returns an error that names the messages from 1 to last that are missing.
func (s *subscriber) check(last int) error {
	var sent []int
	for number := 1; number <= last; number++ {
		sent = append(sent, number)
	}
	if slices.Equal(s.arrived, sent) {
		return nil
	}
	missing := slices.DeleteFunc(sent, s.has)
	if len(missing) == 0 {
		return fmt.Errorf("out of order at the %s: the messages arrived as %v", s.name, s.arrived)
	}
	return fmt.Errorf("missing at the %s: messages %v of %d", s.name, missing, last)
}

// printAdminPage requests the page through the proxy. It does so even after Ctrl-C.
func printAdminPage(ctx context.Context, out io.Writer, url string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nGET /admin/ (%s)\n\n", response.Status)
	for row := range strings.Lines(string(page)) {
		fmt.Fprint(out, "  ", row)
	}
	return nil
}
