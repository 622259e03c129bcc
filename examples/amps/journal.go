package main

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// A message is a published message as the server keeps it. It never changes.
type message struct {
	number      uint64 // counts all messages
	topic       string
	body        []byte
	correlation string
	key         uint64 // of its record; 0: the topic has no SOW
	publisher   uint64
	sequence    uint64 // of the publisher
	time        time.Time
}

// bookmark is the name by which clients resume a subscription behind the message.
func (m *message) bookmark() string {
	return strconv.FormatUint(m.publisher, 10) + "|" + strconv.FormatUint(m.sequence, 10) + "|"
}

// stamp is the time as AMPS writes it.
func (m *message) stamp() string { return m.time.UTC().Format("20060102T150405.000000Z") }

// size is about the memory that the message takes.
func (m *message) size() int { return len(m.body) + len(m.topic) + len(m.correlation) + 128 }

// A journal holds the latest messages of all topics, for bookmark subscriptions.
// AMPS keeps them on disk, in its transaction log. This one is in memory, bounded,
// and ends with the process.
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
		j.messages[0] = nil // append frees the room in front when it moves the slice
		j.messages = j.messages[1:]
	}
}

// Bookmarks that name a position and not a message.
const (
	bookmarkEpoch = "0"
	bookmarkNow   = "0|1|"
)

// after returns the messages that follow a bookmark. Clients also send a list, with
// the last bookmark of each publisher. Then the earliest counts, and the clients drop
// what they have seen. notFound says what to do if a message is not there, because it
// is too old or of an earlier process: "epoch" starts with the first message, "now"
// behind the last, and "fail" is an error. after reports false for that error, and
// for a malformed bookmark.
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
