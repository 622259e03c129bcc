package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// A sow is the state of the world of a topic: the last message for each key. The
// broker's lock guards the records.
type sow struct {
	path    []string // of the key field in a message
	records map[uint64]*message
}

// newSOW takes the key field in the form that filters use, such as /id.
func newSOW(keyField string) *sow {
	path := strings.Split(strings.TrimPrefix(keyField, "/"), "/")
	return &sow{path: path, records: make(map[uint64]*message)}
}

// key returns the SOW key of a message: a hash of the key field, which clients see as
// a decimal number. The field itself could hold commas, and clients send lists of
// keys.
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

// matching returns the records that a sow_delete selects.
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

// merge applies a delta to a message. It replaces the fields that the delta has,
// inside objects too. Both must be JSON.
func merge(old, delta []byte) []byte { return encode(mergeValues(decode(old), decode(delta))) }

func mergeValues(old, delta any) any {
	o, ok := old.(map[string]any)
	d, both := delta.(map[string]any)
	if !ok || !both {
		return delta
	}
	for name, value := range d {
		o[name] = mergeValues(o[name], value)
	}
	return o
}

// difference returns the delta that turns old into new. It always holds the key. It
// cannot express that a field has gone.
func difference(old, new []byte, key []string) []byte {
	o, n := decode(old), decode(new)
	value := field(n, key)
	d, _ := changes(o, n)
	object, ok := d.(map[string]any)
	if !ok {
		return new
	}
	for _, name := range key[:len(key)-1] {
		inner, ok := object[name].(map[string]any)
		if !ok {
			inner = make(map[string]any)
			object[name] = inner
		}
		object = inner
	}
	object[key[len(key)-1]] = value
	return encode(d)
}

// changes reports whether there are any.
func changes(old, new any) (any, bool) {
	o, ok := old.(map[string]any)
	n, both := new.(map[string]any)
	if !ok || !both {
		return new, !reflect.DeepEqual(old, new)
	}
	changed := make(map[string]any)
	for name, value := range n {
		before, existed := o[name]
		if d, differs := changes(before, value); differs || !existed {
			changed[name] = d
		}
	}
	return changed, len(changed) > 0
}

func encode(document any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		panic(err) // what was decoded can be encoded
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}
