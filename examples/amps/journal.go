package main

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// A message is a publish as the server keeps it. It never changes.
type message struct {
	number      uint64 // of all messages
	topic       string
	body        []byte
	correlation string
	key         uint64 // in the SOW of its topic; 0: none
	publisher   uint64
	sequence    uint64 // of the publisher
	time        time.Time
}

// bookmark names the message to clients that resume a subscription.
func (m *message) bookmark() string {
	return strconv.FormatUint(m.publisher, 10) + "|" + strconv.FormatUint(m.sequence, 10) + "|"
}

// stamp is the time as AMPS writes it.
func (m *message) stamp() string { return m.time.UTC().Format("20060102T150405.000000Z") }

// size is about what the message occupies.
func (m *message) size() int { return len(m.body) + len(m.topic) + len(m.correlation) + 128 }

// A journal holds the latest messages of all topics, for bookmark subscriptions.
// AMPS keeps its transaction log on disk; this one is bounded, in memory, and
// gone with the process.
type journal struct {
	limit    int // bytes
	bytes    int
	messages []*message // the oldest first
}

func (j *journal) add(m *message) {
	j.messages = append(j.messages, m)
	j.bytes += m.size()
	for j.bytes > j.limit {
		j.bytes -= j.messages[0].size()
		j.messages[0] = nil // append leaves the room before the slice behind, in time
		j.messages = j.messages[1:]
	}
}

// Bookmarks that are positions and name no message.
const (
	bookmarkEpoch = "0"
	bookmarkNow   = "0|1|"
)

// after returns the messages that follow a bookmark. Of several, the clients send
// a list of the last one for each publisher, and the earliest counts: they drop
// what they have seen. A message that is not there, because it is too old or of
// an earlier process, counts as notFound says: "epoch", "now" or "fail". It
// reports false if the bookmark is none, or to fail was asked for.
func (j *journal) after(bookmark, notFound string) ([]*message, bool) {
	start := len(j.messages)
	for _, one := range list(bookmark) {
		switch one {
		case bookmarkEpoch:
			start = 0
			continue
		case bookmarkNow:
			continue
		}
		publisher, rest, _ := strings.Cut(one, "|")
		id, err := strconv.ParseUint(publisher, 10, 64)
		if err != nil {
			return nil, false
		}
		sequence, err := strconv.ParseUint(strings.TrimSuffix(rest, "|"), 10, 64)
		if err != nil {
			return nil, false
		}
		i := len(j.messages) - 1
		for i >= 0 && (j.messages[i].publisher != id || j.messages[i].sequence > sequence) {
			i--
		}
		switch {
		case i >= 0, notFound == "epoch":
			start = min(start, i+1)
		case notFound == "fail":
			return nil, false
		}
	}
	return slices.Clone(j.messages[start:]), true
}
