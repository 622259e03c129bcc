package main

import (
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The reasons of failure acks. AMPS's clients choose the type of their exception by
// these texts.
var (
	errTopic        = errors.New("invalid topic")
	errNoTopic      = errors.New("no topic")
	errRegex        = errors.New("regex topic not supported")
	errParse        = errors.New("parse error")
	errKey          = errors.New("bad sow key")
	errSOWFull      = errors.New("sow store failed")
	errSubID        = errors.New("subid in use")
	errBookmark     = errors.New("invalid bookmark")
	errOptions      = errors.New("invalid options")
	errNotSupported = errors.New("not supported")
)

// A broker holds the topics and everything that the server remembers about them.
// One lock orders all messages. Each subscription sees them in the order of the
// journal, and there is no gap between the answer of a query and the messages that
// follow it.
type broker struct {
	started string          // makes the bookmarks of each process different
	sows    map[string]*sow // by topic; the map never changes
	sowMax  int             // bytes of all records
	bodyMax int             // bytes of one record, which delta messages can make grow

	mu            sync.Mutex
	number        uint64
	sowBytes      int
	journal       journal
	subscriptions map[string][]*subscription // by topic
	publishers    map[string]*publisher      // by client name
}

// maxPublishers bounds the client names that the broker remembers.
const maxPublishers = 64 << 10

// A publisher is a client name. Its messages have ascending sequence numbers: those
// of its publish store, or else numbers of the server. A client that reconnects
// sends again what was not acknowledged. The numbers show which of these messages
// the server already has.
type publisher struct {
	id       uint64
	last     uint64
	loggedOn time.Time
	session  *session // nil: not connected
}

func newBroker(cfg config) *broker {
	b := &broker{
		started:       strconv.FormatInt(time.Now().UnixNano(), 10),
		sows:          make(map[string]*sow),
		sowMax:        cfg.maxSOW,
		bodyMax:       cfg.frame,
		journal:       journal{limit: cfg.maxJournal},
		subscriptions: make(map[string][]*subscription),
		publishers:    make(map[string]*publisher),
	}
	for topic, key := range cfg.sow {
		b.sows[topic] = newSOW(key)
	}
	return b
}

// join gives the client name to the session. It returns the session that had the
// name before. The caller must end that one, as AMPS does.
func (b *broker) join(s *session, name string) (p *publisher, last uint64, before *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p = b.publishers[name]
	if p == nil {
		if len(b.publishers) >= maxPublishers {
			b.forget()
		}
		hash := fnv.New64a()
		hash.Write([]byte(b.started + "|" + name))
		p = &publisher{id: hash.Sum64()>>1 | 1} // Java has no unsigned numbers
		b.publishers[name] = p
	}
	before, p.session, p.loggedOn = p.session, s, time.Now()
	return p, p.last, before
}

// forget drops the client name whose last logon is the oldest, of those that are not
// connected.
func (b *broker) forget() {
	oldest := ""
	for name, p := range b.publishers {
		if p.session == nil && (oldest == "" || p.loggedOn.Before(b.publishers[oldest].loggedOn)) {
			oldest = name
		}
	}
	delete(b.publishers, oldest)
}

// leave ends the subscriptions of a session and gives up its client name.
func (b *broker) leave(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.publisher != nil && s.publisher.session == s {
		s.publisher.session = nil
	}
	for _, sub := range s.subscriptions {
		b.drop(sub)
	}
	clear(s.subscriptions)
}

func (b *broker) drop(sub *subscription) {
	left := slices.DeleteFunc(b.subscriptions[sub.topic], func(other *subscription) bool { return other == sub })
	if b.subscriptions[sub.topic] = left; len(left) == 0 {
		delete(b.subscriptions, sub.topic)
	}
}

// checkTopic refuses names that no topic can have, and regular expressions.
func checkTopic(topic string) error {
	switch {
	case topic == "":
		return errNoTopic
	case len(topic) > 1024:
		return errTopic
	case strings.ContainsAny(topic, `^$*+?()[]{}|\`):
		return errRegex
	}
	return nil
}

// publish delivers a message to its subscriptions and keeps it. It ignores a message
// that the publisher has sent before. A message with an error counts as sent too:
// sending it again would not help.
func (b *broker) publish(p *publisher, c *command) error {
	err := checkTopic(c.topic)
	switch {
	case err != nil:
	case c.expiration, c.sowKey != "", c.filter != "":
		err = errNotSupported
	case len(c.options) > 0:
		err = errOptions
	case !utf8.Valid(c.body):
		err = errParse
	}
	store := b.sows[c.topic]
	var key uint64
	if store != nil && err == nil {
		var ok bool
		if key, ok = store.key(c.body); !ok {
			err = errKey
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen(p, c.sequence) || err != nil {
		return err
	}
	m := &message{
		topic: c.topic, body: c.body, correlation: c.correlation,
		key: key, publisher: p.id, sequence: p.last, time: time.Now(),
	}
	b.number++
	m.number = b.number
	var old *message
	if store != nil {
		if old = store.records[key]; old != nil && c.name == "delta_publish" {
			m.body = merge(old.body, c.body)
		}
		grows := m.size()
		if old != nil {
			grows -= old.size()
		}
		if len(m.body) > b.bodyMax || grows > 0 && b.sowBytes+grows > b.sowMax {
			return errSOWFull
		}
		store.records[key], b.sowBytes = m, b.sowBytes+grows
	}
	b.journal.add(m)
	b.deliver(m, old)
	return nil
}

// seen records a sequence number of the publisher, 0 for the next one, and reports
// whether it was there before.
func (b *broker) seen(p *publisher, sequence uint64) bool {
	switch {
	case sequence == 0:
		p.last++
	case sequence <= p.last:
		return true
	default:
		p.last = sequence
	}
	return false
}

// remove deletes records of a SOW and returns their number.
func (b *broker) remove(p *publisher, c *command, f filter) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen(p, c.sequence) {
		return 0, nil
	}
	store := b.sows[c.topic]
	if store == nil {
		return 0, errTopic
	}
	records := store.matching(f, c.sowKeys, c.body)
	for _, record := range records {
		delete(store.records, record.key)
		b.sowBytes -= record.size()
		for _, sub := range b.subscriptions[c.topic] {
			if sub.oof && sub.filter.matches(record.body) {
				sub.send(record, record.body, "oof", "deleted")
			}
		}
	}
	return len(records), nil
}

// run starts a query. It calls accepted with the messages that exist now, under the
// lock: what accepted puts into the outbox stands before all later messages, and
// nothing is missed in between.
func (b *broker) run(q query, accepted func(found []*message)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []*message
	switch store := b.sows[q.topic]; {
	case q.sow && store == nil:
		return errTopic
	case q.sow:
		found = slices.Collect(maps.Values(store.records))
	case q.bookmark != "":
		var ok bool
		if found, ok = b.journal.after(q.bookmark, q.notFound); !ok {
			return errBookmark
		}
	}
	if sub := q.subscription; sub != nil {
		mine := sub.session.subscriptions
		before := mine[sub.id]
		switch {
		case before != nil && !q.replace:
			return errSubID
		case before != nil:
			b.drop(before)
		case len(mine) >= maxSubscriptions:
			return errNotSupported
		}
		mine[sub.id] = sub
		b.subscriptions[q.topic] = append(b.subscriptions[q.topic], sub)
	}
	accepted(found)
	return nil
}

// unsubscribe ends subscriptions: one, several or "all". An unknown one is no error,
// because clients also unsubscribe from queries that have ended.
func (b *broker) unsubscribe(s *session, ids string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ids == "all" {
		for _, sub := range s.subscriptions {
			b.drop(sub)
		}
		clear(s.subscriptions)
		return
	}
	for _, id := range list(ids) {
		if sub := s.subscriptions[id]; sub != nil {
			b.drop(sub)
			delete(s.subscriptions, id)
		}
	}
}
