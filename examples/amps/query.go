package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// A query asks for the messages that exist, for those that will come, or for both.
type query struct {
	topic        string
	subscription *subscription // nil: only the messages that exist
	replace      bool          // the subscription that has the same id
	sow          bool
	bookmark     string // "": only the messages that will come
	notFound     string // see [journal.after]
}

// batchBytes and batchRecords bound the records in one frame. A client may ask for
// fewer.
const (
	batchBytes   = 1 << 20
	batchRecords = 1000
)

// query runs a query. It waits until the client has been sent the messages that
// exist, so each client has at most one such answer in memory.
func (s *session) query(c *command) error {
	q, sub, err := s.parseQuery(c)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	err = s.broker.run(q, func(found []*message) {
		s.ack(c, "processed", nil)
		switch {
		case q.sow:
			s.put(item{done: done, query: func(send sender) error { return s.sendSOW(c, sub, found, send) }})
		case q.bookmark != "":
			s.put(item{done: done, query: func(send sender) error { return s.replay(c, sub, found, send) }})
		default:
			s.ack(c, "completed", nil)
			close(done)
		}
	})
	if err != nil {
		return err
	}
	if s.silence > 0 { // the client's beats are not read in the meantime
		s.idle.Stop()
		defer func() { s.idle.Reset(s.silence) }()
	}
	select {
	case <-done:
	case <-s.written:
	}
	return nil
}

// parseQuery makes a query from a command. The subscription that it returns holds the
// filter and the options, also for a query that does not subscribe.
func (s *session) parseQuery(c *command) (q query, sub *subscription, err error) {
	if err = checkTopic(c.topic); err != nil {
		return q, nil, err
	}
	f, err := compileFilter(c.filter)
	if err != nil {
		return q, nil, err
	}
	q = query{topic: c.topic, sow: strings.HasPrefix(c.name, "sow"), notFound: "epoch"}
	sub = &subscription{session: s, id: c.subID, topic: c.topic, filter: f, delta: strings.Contains(c.name, "delta")}
	if c.orderBy || q.sow && c.bookmark != "" { // a historical query
		return q, nil, errNotSupported
	}
	if c.bookmark != "" {
		q.bookmark, sub.bookmark, sub.acks = c.bookmark, true, slices.Contains(c.acks, "persisted")
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
		case "live", "fully_durable", "send_keys": // always so
		case "bookmark_not_found":
			if q.notFound = value; !slices.Contains([]string{"epoch", "now", "fail"}, value) {
				return q, nil, errOptions
			}
		default:
			return q, nil, errOptions
		}
	}
	if c.name == "sow" {
		return q, sub, nil
	}
	if sub.id == "" {
		sub.id = c.id
	}
	if sub.id == "" || sub.id == "all" || len(sub.id) > 256 || strings.ContainsAny(sub.id, ", ") {
		return q, nil, errSubID
	}
	q.subscription = sub
	return q, sub, nil
}

// replay sends the messages that a bookmark subscription has missed.
func (s *session) replay(c *command, sub *subscription, messages []*message, send sender) error {
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
		if err := send(sub.persisted(last)); err != nil {
			return err
		}
	}
	if slices.Contains(c.acks, "completed") {
		return send(s.ackHead(c, "completed", nil).str("status", "success").end())
	}
	return nil
}

// sendSOW sends the records that the filter selects, in the order of their last
// change.
func (s *session) sendSOW(c *command, sub *subscription, records []*message, send sender) error {
	total := len(records)
	records = slices.DeleteFunc(records, func(m *message) bool { return !sub.filter.matches(m.body) })
	slices.SortFunc(records, func(a, b *message) int { return cmp.Compare(a.number, b.number) })
	matches := len(records)
	if c.topN > 0 {
		records = records[:min(c.topN, matches)]
	}
	queryID := c.queryID
	if queryID == "" {
		queryID = c.id
	}
	group := func(command string) head { return newHead(command).str("query_id", queryID).str("t", c.topic) }

	if err := send(group("group_begin").end()); err != nil {
		return err
	}
	for rest := records; len(rest) > 0; {
		var batch [][]byte
		n, size := 0, 0
		for n < len(rest) && n < min(max(c.batchSize, 1), batchRecords) && size < batchBytes {
			batch = append(batch, recordHeader(sub, rest[n]), rest[n].body)
			size += len(rest[n].body)
			n++
		}
		header := group("sow").num("bs", uint64(n)).end()
		if err := send(append([][]byte{header}, batch...)...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := send(group("group_end").end()); err != nil {
		return err
	}
	for _, kind := range []string{"completed", "stats"} {
		if !slices.Contains(c.acks, kind) {
			continue
		}
		h := s.ackHead(c, kind, nil).num("records_returned", uint64(len(records)))
		h = h.num("matches", uint64(matches)).num("topic_matches", uint64(total))
		if err := send(h.str("status", "success").end()); err != nil {
			return err
		}
	}
	return nil
}

// recordHeader returns the header of one record in a frame.
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
