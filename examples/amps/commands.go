package main

import (
	"errors"
	"slices"
	"strconv"
	"time"
)

// version is the version of AMPS in the logon ack. The clients use newer features
// only if it is high enough.
const version = "5.3.4.0"

// Reasons of failure acks before and at the logon.
var (
	errLogonRequired = errors.New("logon required")
	errLogonTwice    = errors.New("duplicate logon attempt")
	errNoClientName  = errors.New("no client name")
	errAuth          = errors.New("auth failure")
	errMessageType   = errors.New("invalid message type")
)

// execute executes a command and sends its acks.
func (s *session) execute(c *command) {
	if s.publisher == nil && c.name != "logon" {
		s.fail(c, errLogonRequired)
		return
	}
	s.ack(c, "received", nil)
	s.ack(c, "parsed", nil)
	var err error
	switch c.name {
	case "logon":
		err = s.logon(c)
	case "publish", "delta_publish":
		err = s.publish(c)
	case "subscribe", "delta_subscribe", "sow", "sow_and_subscribe", "sow_and_delta_subscribe":
		err = s.query(c)
	case "unsubscribe":
		s.broker.unsubscribe(s, c.subID)
		s.ack(c, "processed", nil)
	case "sow_delete":
		err = s.sowDelete(c)
	case "heartbeat":
		err = s.heartbeat(c)
	case "flush":
		// Commands are executed in order, so all before it are done.
		s.ack(c, "processed", nil)
		s.ack(c, "persisted", nil)
		s.ack(c, "completed", nil)
	default:
		err = errNotSupported
	}
	if err != nil {
		s.fail(c, err)
	}
}

func (s *session) logon(c *command) error {
	switch {
	case s.publisher != nil:
		return errLogonTwice
	case c.client == "":
		return errNoClientName
	case len(c.client) > 256:
		return errNotSupported
	case c.user != "" && s.user != "" && c.user != s.user:
		return errAuth
	case c.messageType != "" && c.messageType != "json":
		return errMessageType
	}
	p, last, before := s.broker.join(s, c.client)
	if before != nil {
		before.stop(errTakenOver)
	}
	s.publisher = p
	s.name += " " + strconv.Quote(c.client)
	s.expect(0)
	s.ack(c, "processed", func(h head) head {
		h = h.num("s", last).str("bm", strconv.FormatUint(p.id, 10)+"|"+strconv.FormatUint(last, 10)+"|")
		return h.str("client_name", c.client).str("user_id", c.user).str("version", version)
	})
	return nil
}

func (s *session) publish(c *command) error {
	if err := s.broker.publish(s.publisher, c); err != nil {
		return err
	}
	if c.id == "" && c.sequence > 0 && len(c.acks) == 1 && c.acks[0] == "persisted" {
		s.unacked, s.sequence = s.unacked+1, c.sequence
		return nil
	}
	s.ack(c, "processed", nil)
	s.ack(c, "persisted", nil)
	s.ack(c, "completed", nil)
	return nil
}

// sowDelete deletes the records that a filter, keys or a message select. The command
// must have exactly one of these.
func (s *session) sowDelete(c *command) error {
	ways := 0
	for _, given := range []bool{c.filter != "", c.sowKeys != "", len(c.body) > 0} {
		if given {
			ways++
		}
	}
	if ways != 1 || c.bookmark != "" { // a bookmark would acknowledge a message of a queue
		return errNotSupported
	}
	if len(c.options) > 0 {
		return errOptions
	}
	f, err := compileFilter(c.filter)
	if err != nil {
		return err
	}
	deleted, err := s.broker.remove(s.publisher, c, f)
	if err != nil {
		return err
	}
	s.ack(c, "processed", nil)
	s.ack(c, "persisted", nil)
	counts := func(h head) head {
		return h.num("records_deleted", uint64(deleted)).num("matches", uint64(deleted)).num("topic_matches", 1)
	}
	s.ack(c, "completed", counts)
	s.ack(c, "stats", counts)
	return nil
}

// heartbeat starts with the options "start,SECONDS". From then on both ends send
// beats, and a client that is silent for two intervals is disconnected. The server
// sends two beats in each interval: the JavaScript client answers a beat only if its
// own last beat is more than an interval old.
func (s *session) heartbeat(c *command) error {
	if len(c.options) == 2 && c.options[0] == "start" {
		seconds, err := strconv.ParseUint(c.options[1], 10, 16)
		if err != nil || seconds == 0 {
			return errOptions
		}
		interval := time.Duration(seconds) * time.Second
		s.expect(2 * interval)
		s.tick(interval / 2)
	} else if slices.Equal(c.options, []string{"stop"}) {
		s.expect(0)
		s.tick(0)
	} else if !slices.Equal(c.options, []string{"beat"}) {
		return errOptions
	}
	s.ack(c, "processed", nil)
	return nil
}

// tick sets the interval between beats to the client. It does not wait for the
// writer, which may be busy for a long time.
func (s *session) tick(interval time.Duration) {
	select {
	case <-s.beat: // an earlier interval that the writer has not taken
	default:
	}
	s.beat <- interval
}
