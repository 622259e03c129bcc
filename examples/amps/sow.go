package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A sow is the state of the world of a topic: the last message for each key.
// The broker's lock guards the records.
type sow struct {
	path    []string // of the key in a message
	records map[uint64]*message
}

// newSOW takes the field of the key as it stands in filters, such as /id.
func newSOW(keyField string) *sow {
	path := strings.Split(strings.TrimPrefix(keyField, "/"), "/")
	return &sow{path: path, records: make(map[uint64]*message)}
}

// key is the SOW key of a message. Clients see it in decimal, and take it as it
// is, so it is a hash: no key of an application can hold a comma.
func (s *sow) key(body []byte) (key uint64, ok bool) {
	var text string
	switch value := field(decode(body), s.path).(type) {
	case string:
		text = "s" + value
	case json.Number:
		text = "n" + string(value)
	default:
		return 0, false
	}
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:]) >> 1, true // Java has no unsigned numbers
}

// snapshot returns the records in the order of their last change.
func (s *sow) snapshot() []*message {
	return slices.SortedFunc(maps.Values(s.records), func(a, b *message) int { return cmp.Compare(a.number, b.number) })
}

// matching returns those of the records that a sow_delete names.
func (s *sow) matching(f filter, keys string, body []byte) []*message {
	if len(body) > 0 {
		if key, ok := s.key(body); ok && s.records[key] != nil {
			return []*message{s.records[key]}
		}
		return nil
	}
	var found []*message
	if keys != "" {
		for _, text := range list(keys) {
			key, err := strconv.ParseUint(text, 10, 64)
			if record := s.records[key]; err == nil && record != nil {
				found = append(found, record)
			}
		}
		return found
	}
	for _, record := range s.records {
		if f.matches(record.body) {
			found = append(found, record)
		}
	}
	return found
}

// An object is one level of a JSON document; its values keep their bytes.
type object map[string]json.RawMessage

func parseObject(body []byte) object {
	if len(body) == 0 || bytes.TrimLeft(body, " \t\r\n")[0] != '{' {
		return nil
	}
	var o object
	if json.Unmarshal(body, &o) != nil {
		return nil
	}
	return o
}

func (o object) bytes() []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(o) != nil {
		return nil // cannot be: the values have been parsed
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// merge lays a delta over a message: objects field by field, anything else as a
// whole.
func merge(old, delta []byte) []byte {
	o, d := parseObject(old), parseObject(delta)
	if o == nil || d == nil {
		return delta
	}
	for name, value := range d {
		if before, ok := o[name]; ok {
			value = merge(before, value)
		}
		o[name] = value
	}
	return o.bytes()
}

// difference is what merge needs to make new from old; it holds the field of the
// path in any case. A field that has gone cannot be told.
func difference(old, new []byte, path []string) []byte {
	o, n := parseObject(old), parseObject(new)
	if o == nil || n == nil {
		return new
	}
	for name, value := range n {
		before, ok := o[name]
		isKey := len(path) > 0 && name == path[0]
		switch {
		case !ok, isKey && len(path) == 1:
		case isKey:
			n[name] = difference(before, value, path[1:])
		case bytes.Equal(before, value):
			delete(n, name)
		case parseObject(before) != nil && parseObject(value) != nil:
			n[name] = difference(before, value, nil)
		}
	}
	return n.bytes()
}
