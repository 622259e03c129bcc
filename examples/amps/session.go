package main

import (
	"errors"
	"io"
	"log"
	"slices"
	"sync"
	"time"
)

const (
	logonTimeout     = 10 * time.Second
	maxSubscriptions = 1000
	// ackEvery bounds the publishes that one persisted ack stands for.
	ackEvery = 1000
)

var (
	errLogon     = errors.New("the client has not logged on in time")
	errSilent    = errors.New("no heartbeat from the client")
	errShutdown  = errors.New("the server shuts down")
	errTakenOver = errors.New("another connection has logged on with the same client name")
)

// limits bound the memory of one session.
type limits struct {
	frame  int // bytes of one frame from the client
	outbox int // bytes that wait for the client
}

// A session serves one connection of a client.
type session struct {
	broker *broker
	wire   wire
	limits limits
	user   string // the user of the token; empty: no token is required
	log    *log.Logger
	name   string // for the log

	out       *outbox
	written   chan struct{}      // closed when the writer has ended
	beat      chan time.Duration // a new interval for heartbeats to the client
	idle      *time.Timer        // ends the session if the client is silent for too long
	silence   time.Duration      // how long the client may be silent; 0: no limit
	publisher *publisher         // nil before the logon

	subscriptions map[string]*subscription // by id; the broker's lock guards it

	// Publishes without an ack so far, and the last sequence number. One ack stands
	// for all sequence numbers up to its own.
	unacked  int
	sequence uint64

	mu      sync.Mutex
	cause   error // why it ends
	aborted bool
	closing sync.WaitGroup
}

func newSession(b *broker, w wire, l limits, user, name string, logger *log.Logger) *session {
	return &session{
		broker: b, wire: w, limits: l, user: user, name: name, log: logger,
		out:           newOutbox(l.outbox),
		written:       make(chan struct{}),
		beat:          make(chan time.Duration, 1),
		subscriptions: make(map[string]*subscription),
	}
}

// run serves the client until either end closes the connection.
func (s *session) run() {
	s.idle = time.AfterFunc(logonTimeout, func() { s.abort(errLogon) })
	go func() {
		defer close(s.written)
		if err := s.writeAll(); err != nil {
			s.abort(err)
		}
		s.wire.finish(s.because(nil))
	}()
	err := s.readAll()
	var bad malformed
	if errors.As(err, &bad) {
		s.put(item{frame: [][]byte{newHead("ack").str("a", "processed").str("status", "failure").str("reason", bad.Error()).end()}})
	}
	s.stop(err)
	<-s.written
	s.wire.drain()
	s.idle.Stop()
	s.broker.leave(s)
	s.abort(err)
	s.closing.Wait()
	if cause := s.because(nil); cause != io.EOF {
		s.log.Printf("%s: %v", s.name, cause)
	}
}

// because records why the session ends and returns the first reason recorded.
func (s *session) because(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = err
	}
	return s.cause
}

// stop ends the session after the outbox has been sent.
func (s *session) stop(cause error) {
	s.because(cause)
	s.out.close()
}

// abort ends the session at once. It does not wait for the end.
func (s *session) abort(cause error) {
	s.stop(cause)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted {
		s.aborted = true
		s.closing.Go(s.wire.abort) // closing TLS may block for a while
	}
}

// put adds to the outbox. If the client does not keep up, it ends the session.
func (s *session) put(i item) {
	if err := s.out.put(i); err != nil {
		s.abort(err)
	}
}

// readAll executes the commands of the client until the connection ends. It continues
// after stop: a client that publishes, leaves and logs on again at once must not lose
// what it has sent.
func (s *session) readAll() error {
	for {
		limit := s.limits.frame
		if s.publisher == nil {
			limit = min(limit, firstFrameLimit)
		}
		frame, err := s.wire.read(limit)
		if err != nil {
			return err
		}
		if s.silence > 0 {
			s.idle.Reset(s.silence)
		}
		c, err := parseCommand(frame)
		if err != nil {
			return err
		}
		s.execute(c)
		if s.unacked > 0 && (!s.wire.more() || s.unacked >= ackEvery) {
			s.ackPublishes()
		}
	}
}

// writeAll sends the outbox until that is closed and empty.
func (s *session) writeAll() error {
	heartbeat := newHead("heartbeat").end()
	ticker := time.NewTicker(time.Hour)
	ticker.Stop()
	defer ticker.Stop()
	delivered := make(map[*subscription]string) // bookmarks to acknowledge
	for {
		items, open := s.out.take()
		for _, i := range items {
			if err := s.write(i); err != nil {
				return err
			}
			if i.subscription != nil {
				delivered[i.subscription] = i.bookmark
			}
		}
		if len(items) > 0 {
			continue
		}
		for sub, bookmark := range delivered {
			if err := s.wire.write(sub.persisted(bookmark)); err != nil {
				return err
			}
		}
		clear(delivered)
		if err := s.wire.flush(); err != nil || !open {
			return err
		}
		select {
		case <-s.out.ready:
		case interval := <-s.beat:
			ticker.Stop()
			if interval > 0 {
				ticker.Reset(interval)
			}
		case <-ticker.C:
			if err := s.wire.write(heartbeat); err != nil {
				return err
			}
		}
	}
}

func (s *session) write(i item) error {
	defer s.out.written(i)
	if i.query != nil {
		return i.query(s.wire.write)
	}
	return s.wire.write(i.frame...)
}

// ack sends an ack of this kind if the command asks for it. more, if it is not nil,
// adds fields.
func (s *session) ack(c *command, kind string, more func(head) head) {
	if slices.Contains(c.acks, kind) {
		s.put(item{frame: [][]byte{s.ackHead(c, kind, more).str("status", "success").end()}})
	}
}

func (s *session) ackHead(c *command, kind string, more func(head) head) head {
	h := newHead("ack").str("a", kind).str("cid", c.id).str("sub_id", c.subID).str("query_id", c.queryID)
	if c.sequence > 0 {
		h = h.num("s", c.sequence)
	}
	if more != nil {
		h = more(h)
	}
	return h
}

// fail sends a failure ack, even if the client has not asked for any ack.
func (s *session) fail(c *command, reason error) {
	kind := "processed"
	for _, asked := range []string{"stats", "completed", "persisted", "processed"} {
		if slices.Contains(c.acks, asked) {
			kind = asked // the last one wins
		}
	}
	s.log.Printf("%s: %q: %v", s.name, c.name, reason)
	s.put(item{frame: [][]byte{s.ackHead(c, kind, nil).str("status", "failure").str("reason", reason.Error()).end()}})
}

// ackPublishes sends one persisted ack for the publishes so far.
func (s *session) ackPublishes() {
	s.unacked = 0
	s.put(item{frame: [][]byte{newHead("ack").str("a", "persisted").num("s", s.sequence).str("status", "success").end()}})
}

// expect sets how long the client may be silent; 0 means no limit.
func (s *session) expect(silence time.Duration) {
	s.idle.Stop()
	if s.silence = silence; silence > 0 {
		s.idle = time.AfterFunc(silence, func() { s.abort(errSilent) })
	}
}
