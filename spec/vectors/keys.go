package vectors

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A key reads and writes one line of a head. get reports false for a key that the
// vector does not have.
type key struct {
	name string
	get  func(*Vector) (string, bool)
	set  func(*Vector, string) error
}

// keys lists the keys in the order in which they are written.
var keys = []key{
	text("id", func(v *Vector) *string { return &v.ID }),
	list("covers", " ", func(v *Vector) *[]string { return &v.Covers }),
	text("kind", func(v *Vector) *string { return &v.Kind }, RequestHead, ResponseHead, Capsules, WebSocket),
	text("role", func(v *Vector) *string { return &v.Role }, "server", "client", "any"),
	text("note", func(v *Vector) *string { return &v.Note }),

	list("carriers", ", ", func(v *Vector) *[]string { return &v.Carriers }),
	list("protocols", ", ", func(v *Vector) *[]string { return &v.Protocols }),
	flag("tls", "yes", func(v *Vector) *bool { return &v.TLS }),
	list("origins", ", ", func(v *Vector) *[]string { return &v.Origins }),
	number("max-head", func(v *Vector) *int { return &v.MaxHead }),
	text("key", func(v *Vector) *string { return &v.Key }),

	flag("chunks", "each-byte", func(v *Vector) *bool { return &v.EachByte }),
	text("transport", func(v *Vector) *string { return &v.Transport }, "end", "reset", "open"),

	text("expect", func(v *Vector) *string { return &v.Expect }, "accept", "refuse", "fall", "fail", "data"),
	text("carrier", func(v *Vector) *string { return &v.Carrier }, "upgrade", "framed", "websocket"),
	text("protocol", func(v *Vector) *string { return &v.Protocol }),
	flag("tunnel", "tls", func(v *Vector) *bool { return &v.Tunnel }),
	number("status", func(v *Vector) *int { return &v.Status }),
	text("code", func(v *Vector) *string { return &v.Code }),
	hexed("data", func(v *Vector) *[]byte { return &v.Data }),
	text("end", func(v *Vector) *string { return &v.End }, "clean", "truncated", "reset", "malformed", "open"),
	text("after", func(v *Vector) *string { return &v.After }, "malformed"),
	hexed("pong", func(v *Vector) *[]byte { return &v.Pong }),
	hexed("ws-pong", func(v *Vector) *[]byte { return &v.WSPong }),
	text("close", func(v *Vector) *string { return &v.Close }),
}

func find(name string) *key {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

// text returns a key whose value is one of allowed. If allowed is empty, the key has any value.
func text(name string, field func(*Vector) *string, allowed ...string) key {
	return key{name,
		func(v *Vector) (string, bool) { return *field(v), *field(v) != "" },
		func(v *Vector, s string) error {
			if s == "" || len(allowed) > 0 && !slices.Contains(allowed, s) {
				return fmt.Errorf("%q is not one of %q", s, allowed)
			}
			*field(v) = s
			return nil
		}}
}

func list(name, separator string, field func(*Vector) *[]string) key {
	return key{name,
		func(v *Vector) (string, bool) { return strings.Join(*field(v), separator), len(*field(v)) > 0 },
		func(v *Vector, s string) error {
			*field(v) = strings.Split(s, separator)
			if slices.Contains(*field(v), "") {
				return errors.New("it has an empty member")
			}
			return nil
		}}
}

// flag returns a key that has only one possible value.
func flag(name, value string, field func(*Vector) *bool) key {
	return key{name,
		func(v *Vector) (string, bool) { return value, *field(v) },
		func(v *Vector, s string) error {
			if s != value {
				return fmt.Errorf("%q is not %q", s, value)
			}
			*field(v) = true
			return nil
		}}
}

func number(name string, field func(*Vector) *int) key {
	return key{name,
		func(v *Vector) (string, bool) { return strconv.Itoa(*field(v)), *field(v) != 0 },
		func(v *Vector, s string) (err error) {
			*field(v), err = strconv.Atoi(s)
			return err
		}}
}

// hexed returns a key whose value is bytes in hexadecimal. An empty value differs from a missing
// key.
func hexed(name string, field func(*Vector) *[]byte) key {
	return key{name,
		func(v *Vector) (string, bool) { return hex.EncodeToString(*field(v)), *field(v) != nil },
		func(v *Vector, s string) (err error) {
			*field(v), err = hex.DecodeString(s)
			return err
		}}
}

// check returns an error if a key is missing, or does not belong to the kind of the vector.
func (v *Vector) check() error {
	if v.ID == "" || len(v.Covers) == 0 || v.Note == "" || v.Role == "" || v.Transport == "" {
		return errors.New("id, covers, role, note and transport must be there")
	}
	allowed := map[string][]string{
		RequestHead:  {"accept", "refuse"},
		ResponseHead: {"accept", "fall", "fail"},
		Capsules:     {"data"},
		WebSocket:    {"data"},
	}[v.Kind]
	if !slices.Contains(allowed, v.Expect) {
		return fmt.Errorf("expect of the kind %q is one of %q", v.Kind, allowed)
	}
	refused, accepted := v.Expect == "refuse", v.Expect == "accept"
	switch {
	case !together(accepted || v.Expect == "data", v.Data != nil, v.End != ""):
		return errors.New("data and end belong to a tunnel, and to nothing else")
	case !together(refused, v.Code != "", v.Status != 0):
		return errors.New("code and status belong to a refusal, and to nothing else")
	case !together(accepted, v.Carrier != "", v.Protocol != ""):
		return errors.New("carrier and protocol belong to an accepted head, and to nothing else")
	case v.Kind == RequestHead && v.Role != "server", v.Kind == ResponseHead && v.Role != "client":
		return fmt.Errorf("a %s is for the other role", v.Kind)
	case v.Kind == ResponseHead && (len(v.Carriers) == 0 || v.Key == "" && v.Carriers[0] == "websocket"):
		return errors.New("carriers, and key for websocket, belong to each answer")
	}
	return nil
}

// together reports whether all values of set are equal to want.
func together(want bool, set ...bool) bool { return !slices.Contains(set, !want) }
