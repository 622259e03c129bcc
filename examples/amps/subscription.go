package main

import "strconv"

// A subscription belongs to one session. Its fields never change.
type subscription struct {
	session  *session
	id       string
	topic    string
	filter   filter
	delta    bool // send only the fields that have changed
	bookmark bool
	oof      bool // tell the client when a record leaves the result
	noKey    bool
	stamp    bool
	acks     bool // tell it what has been sent, see persisted
}

// deliver puts the message into the outboxes of the subscribers. It never waits for
// them: the session of a subscriber that does not keep up is ended.
func (b *broker) deliver(m, old *message) {
	var document, before any // decoded once, for all filters
	var changed []byte
	for _, sub := range b.subscriptions[m.topic] {
		matches, matched := true, old != nil
		if sub.filter != nil {
			if document == nil {
				document = decode(m.body)
			}
			matches = sub.filter(document)
			if old != nil {
				if before == nil {
					before = decode(old.body)
				}
				matched = sub.filter(before)
			}
		}
		switch {
		case matches && matched && sub.delta:
			if changed == nil {
				changed = difference(old.body, m.body, b.sows[m.topic].path)
			}
			sub.send(m, changed, "publish", "")
		case matches:
			sub.send(m, m.body, "publish", "")
		case matched && sub.oof:
			sub.send(m, m.body, "oof", "match")
		}
	}
}

// send puts one message into the outbox of the session.
func (sub *subscription) send(m *message, body []byte, command, reason string) {
	i := item{frame: [][]byte{sub.header(m, len(body), command, reason), body}}
	if sub.bookmark && sub.acks {
		i.subscription, i.bookmark = sub, m.bookmark()
	}
	sub.session.put(i)
}

func (sub *subscription) header(m *message, length int, command, reason string) []byte {
	h := newHead(command).str("t", m.topic)
	if m.key != 0 && !sub.noKey {
		h = h.str("k", strconv.FormatUint(m.key, 10))
	}
	if sub.bookmark {
		h = h.str("bm", m.bookmark())
	}
	if sub.stamp {
		h = h.str("ts", m.stamp())
	}
	return h.str("x", m.correlation).str("reason", reason).num("l", uint64(length)).str("sids", sub.id).end()
}

// persisted is the ack that the subscription has been sent all messages up to this
// bookmark. The client's bookmark store uses it to resume.
func (sub *subscription) persisted(bookmark string) []byte {
	return newHead("ack").str("a", "persisted").str("sub_id", sub.id).str("bm", bookmark).str("status", "success").end()
}
