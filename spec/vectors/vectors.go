// Package vectors holds the test vectors of the wire document, spec/preflight.md.
//
// A vector is a file: a head of lines `key: value`, an empty line, and the bytes
// that one side receives. README.md defines the keys. Other languages read the files;
// Go programs use [All].
package vectors

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// The kinds of vectors. The files of a kind are in a folder with the same name.
const (
	RequestHead  = "request-head"
	ResponseHead = "response-head"
	Capsules     = "capsules"
	WebSocket    = "websocket"
)

//go:embed request-head response-head capsules websocket
var files embed.FS

// Ext is the extension of the files.
const Ext = ".vector"

// A Vector contains the bytes that one side receives, and the expected result. README.md
// describes the fields by the names of their keys.
type Vector struct {
	ID     string   // kind/name, which is the path of the file without its extension
	Covers []string // requirements of the document, such as M12
	Kind   string
	Role   string // the receiver: server, client, or any of the two
	Note   string // what the vector shows

	// The configuration of the receiver.
	Carriers  []string // those that a server serves, or that a client tries, in this order
	Protocols []string // those that a server serves, or the one that a client asks for
	TLS       bool     // a server serves TLS inside the tunnel, or a client asks for it
	Origins   []string // the origins that a server allows
	MaxHead   int      // the limit of a server, in bytes; 0: 16384
	Key       string   // the Sec-WebSocket-Key of a client

	EachByte  bool   // the result must be the same for each way to split the bytes
	Transport string // what follows the bytes: end, reset, or open (nothing)

	// The result.
	Expect   string // accept or refuse; accept, fall or fail; data
	Carrier  string // the carrier of the tunnel
	Protocol string // the protocol of the tunnel
	Tunnel   bool   // there is TLS inside the tunnel
	Status   int    // the status of the refusal
	Code     string // the code of the refusal
	Data     []byte // the bytes of the application
	End      string // the end of the data: clean, truncated, reset, malformed, or open (none yet)
	After    string // malformed: a protocol error after the clean end
	Pong     []byte // the value of a PONG that must be sent
	WSPong   []byte // the payload of a Pong frame that must be sent; not nil if it is empty
	Close    string // the code of the Close frame that must be sent; none: without a code

	Bytes []byte
}

// All returns all vectors, in the order of their IDs. The caller may change them.
func All() ([]Vector, error) {
	var all []Vector
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		v, err := Parse(b)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if name != v.ID+Ext || path.Dir(name) != v.Kind {
			return fmt.Errorf("%s: the file does not have the name of its id %q in the folder of its kind %q", name, v.ID, v.Kind)
		}
		all = append(all, v)
		return nil
	})
	return all, err
}

// Parse parses a file. It returns an error for an unknown, repeated or missing key,
// and for a value that the key does not allow.
func Parse(file []byte) (Vector, error) {
	var v Vector
	head, body, ok := bytes.Cut(file, []byte("\n\n"))
	if !ok {
		return v, fmt.Errorf("no empty line ends the head")
	}
	seen := make(map[string]bool)
	for line := range strings.SplitSeq(string(head), "\n") {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			name, value = strings.TrimSuffix(line, ":"), ""
		}
		k := find(name)
		if k == nil || seen[name] {
			return v, fmt.Errorf("the key %q is unknown or repeated", name)
		}
		seen[name] = true
		if err := k.set(&v, value); err != nil {
			return v, fmt.Errorf("the value of %q: %w", name, err)
		}
	}
	v.Bytes = body
	return v, v.check()
}

// Format returns the file of a vector.
func Format(v Vector) []byte {
	var b bytes.Buffer
	for _, k := range keys {
		if value, ok := k.get(&v); ok {
			b.WriteString(strings.TrimSuffix(k.name+": "+value, " ") + "\n")
		}
	}
	b.WriteByte('\n')
	b.Write(v.Bytes)
	return b.Bytes()
}
