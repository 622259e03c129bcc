package main

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// version is what the logon ack says: the clients compare it with what they want
// to use.
const version = "5.3.4.0"

// Reasons that end a logon.
var (
	errLogonRequired = errors.New("logon required")
	errLogonTwice    = errors.New("duplicate logon attempt")
	errNoClientName  = errors.New("no client name")
	errAuth          = errors.New("auth failure")
	errMessageType   = errors.New("invalid message type")
)

// execute does what a client wants, and sends the acks.
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
		// Everything before it is done: commands are executed in turn.
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
	if c.expiration {
		return errNotSupported
	}
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

// sowDelete deletes what a filter, keys or a message select: exactly one of them.
func (s *session) sowDelete(c *command) error {
	ways := 0
	for _, given := range []bool{c.filter != "", c.sowKeys != "", len(c.body) > 0} {
		if given {
			ways++
		}
	}
	if ways != 1 || c.bookmark != "" { // a bookmark acknowledges a message of a queue
		return errNotSupported
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

// heartbeat starts with "start,SECONDS"; then both ends send a beat now and then.
// The JavaScript client answers a beat only if it has sent none for the whole
// interval, so beats go out twice as often, and silence of two intervals ends
// the connection.
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

func (s *session) tick(interval time.Duration) {
	select {
	case s.beat <- interval:
	case <-s.written:
	}
}

// query subscribes, or asks for what there is, or both.
func (s *session) query(c *command) error {
	if err := checkTopic(c.topic); err != nil {
		return err
	}
	f, err := compileFilter(c.filter)
	if err != nil {
		return err
	}
	if c.orderBy {
		return errNotSupported
	}
	q := query{sow: strings.HasPrefix(c.name, "sow"), notFound: "epoch"}
	sub := &subscription{session: s, topic: c.topic, filter: f, delta: strings.Contains(c.name, "delta")}
	if !q.sow {
		q.bookmark = c.bookmark
		sub.bookmark = c.bookmark != ""
		sub.acks = slices.Contains(c.acks, "persisted")
	} else if c.bookmark != "" {
		return errNotSupported // the state of the world as it was
	}
	for _, option := range c.options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "replace":
			q.replace = true
		case "oof":
			sub.oof = true
		case "no_sowkey":
			sub.noKey = true
		case "timestamp":
			sub.stamp = true
		case "live", "fully_durable", "send_keys": // it is so in any case
		case "bookmark_not_found":
			if q.notFound = value; !slices.Contains([]string{"epoch", "now", "fail"}, value) {
				return errOptions
			}
		default:
			return errOptions
		}
	}
	if c.name != "sow" {
		if sub.id = c.subID; sub.id == "" {
			sub.id = c.id
		}
		if sub.id == "" || sub.id == "all" || strings.Contains(sub.id, ",") {
			return errSubID
		}
		q.subscription = sub
	}
	found, err := s.broker.run(q, c.topic, func() { s.ack(c, "processed", nil) })
	switch {
	case err != nil:
		return err
	case q.sow:
		s.answer(func(send func(...[]byte) error) error { return s.sendSOW(c, sub, found, send) })
	case q.bookmark != "":
		s.answer(func(send func(...[]byte) error) error { return s.replay(c, sub, found, send) })
	default:
		s.ack(c, "completed", nil)
	}
	return nil
}

// answer sends the answer of a query, and waits until that is done: a client can
// have one such answer under way, and no more of them in memory. What comes
// meanwhile for its subscriptions waits behind it.
func (s *session) answer(query func(send func(...[]byte) error) error) {
	if s.silence > 0 {
		s.patience.Stop()
		defer func() { s.patience.Reset(s.silence) }()
	}
	done := make(chan struct{})
	s.put(item{query: query, done: done})
	select {
	case <-done:
	case <-s.written:
	}
}

// replay sends what a bookmark subscription has missed.
func (s *session) replay(c *command, sub *subscription, messages []*message, send func(...[]byte) error) error {
	last := ""
	for _, m := range messages {
		if m.topic != sub.topic || !sub.filter.matches(m.body) {
			continue
		}
		if err := send(sub.header(m, len(m.body), "publish", ""), m.body); err != nil {
			return err
		}
		last = m.bookmark()
	}
	if last != "" && sub.acks {
		h := newHead("ack").str("a", "persisted").str("sub_id", sub.id).str("bm", last).str("status", "success")
		if err := send(h.end()); err != nil {
			return err
		}
	}
	if slices.Contains(c.acks, "completed") {
		return send(s.ackHead(c, "completed", nil).str("status", "success").end())
	}
	return nil
}

// sendSOW sends records in groups of the size that the client asks for.
func (s *session) sendSOW(c *command, sub *subscription, records []*message, send func(...[]byte) error) error {
	total := len(records)
	records = slices.DeleteFunc(records, func(m *message) bool { return !sub.filter.matches(m.body) })
	matches := len(records)
	if c.topN > 0 && c.topN < len(records) {
		records = records[:c.topN]
	}
	queryID := c.queryID
	if queryID == "" {
		queryID = c.id
	}
	group := func(command string) error {
		return send(newHead(command).str("query_id", queryID).str("t", c.topic).end())
	}
	if err := group("group_begin"); err != nil {
		return err
	}
	size := max(c.batchSize, 1)
	for batch := range slices.Chunk(records, min(size, 1000)) {
		frame := [][]byte{newHead("sow").str("query_id", queryID).str("t", c.topic).num("bs", uint64(len(batch))).end()}
		for _, m := range batch {
			frame = append(frame, recordHeader(sub, m), m.body)
		}
		if err := send(frame...); err != nil {
			return err
		}
	}
	if err := group("group_end"); err != nil {
		return err
	}
	for _, kind := range []string{"completed", "stats"} {
		if !slices.Contains(c.acks, kind) {
			continue
		}
		h := s.ackHead(c, kind, nil).num("records_returned", uint64(len(records)))
		h = h.num("matches", uint64(matches)).num("topic_matches", uint64(total)).str("status", "success")
		if err := send(h.end()); err != nil {
			return err
		}
	}
	return nil
}

// recordHeader stands before each record of a frame.
func recordHeader(sub *subscription, m *message) []byte {
	h := append(head(`{"l":`), strconv.Itoa(len(m.body))...)
	if !sub.noKey {
		h = h.str("k", strconv.FormatUint(m.key, 10))
	}
	if sub.stamp {
		h = h.str("ts", m.stamp())
	}
	return h.str("x", m.correlation).end()
}
