// Command generate writes the files of the test vectors from the tables in this folder.
//
//	go run ./spec/vectors/generate
//
// To add a vector, add a line to a table and run it again.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/preflight-go/preflight/spec/vectors"
)

func main() {
	if err := write(filepath.Join("spec", "vectors")); err != nil {
		log.Fatal(err)
	}
}

// write replaces the files of the vectors in dir.
func write(dir string) error {
	for _, kind := range []string{vectors.RequestHead, vectors.ResponseHead, vectors.Capsules, vectors.WebSocket} {
		old, err := filepath.Glob(filepath.Join(dir, kind, "*"+vectors.Ext))
		if err != nil {
			return err
		}
		for _, name := range old {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	for _, v := range all() {
		name := filepath.Join(dir, filepath.FromSlash(v.ID)+vectors.Ext)
		if err := os.WriteFile(name, vectors.Format(v), 0o644); err != nil {
			return fmt.Errorf("%w: run this at the root of the repository", err)
		}
	}
	return nil
}

// all returns the vectors of all tables.
func all() []vectors.Vector {
	var all []vectors.Vector
	all = append(all, requests()...)
	all = append(all, answers()...)
	all = append(all, capsules()...)
	return append(all, webSockets()...)
}

// maxSplit is the longest input that is cut at each byte.
const maxSplit = 1024

// A row is a line of a table: the name of a vector, what it covers, what it shows, the
// bytes, and the expected result, in which the set-up of the receiver may stand too.
type row struct {
	name   string
	covers string
	note   string
	bytes  string
	want   vectors.Vector
}

// vector completes a row.
func (r row) vector(kind, role string) vectors.Vector {
	v := r.want
	v.ID = kind + "/" + r.name
	v.Kind, v.Role = kind, role
	v.Covers, v.Note = strings.Fields(r.covers), r.note
	v.Bytes = []byte(r.bytes)
	v.EachByte = len(v.Bytes) <= maxSplit
	if v.Transport == "" {
		v.Transport = "end"
	}
	return v
}

// clean expects the application bytes data, then a clean end.
func clean(data string) vectors.Vector { return stream(data, "clean") }

// truncated expects data, then an end that is an error.
func truncated(data string) vectors.Vector { return stream(data, "truncated") }

// malformed expects a protocol error. At most data is passed on before it.
func malformed(data string) vectors.Vector {
	v := stream(data, "malformed")
	v.Transport = "open"
	return v
}

// waiting expects data, while the stream goes on.
func waiting(data string) vectors.Vector {
	v := stream(data, "open")
	v.Transport = "open"
	return v
}

// brokenBehind expects data and a clean end, with a protocol error behind it.
func brokenBehind(data string) vectors.Vector {
	v := stream(data, "clean")
	v.Transport, v.After = "open", "malformed"
	return v
}

func stream(data, end string) vectors.Vector {
	return vectors.Vector{Expect: "data", Data: []byte(data), End: end}
}

// reset changes what follows the bytes.
func reset(v vectors.Vector) vectors.Vector {
	v.Transport = "reset"
	return v
}

// open leaves the transport open.
func open(v vectors.Vector) vectors.Vector {
	v.Transport = "open"
	return v
}

// pong expects a PONG with this value.
func pong(v vectors.Vector, value uint64) vectors.Vector {
	v.Transport, v.Pong = "open", be64(value)
	return v
}

// wsPong expects a Pong frame with this payload.
func wsPong(v vectors.Vector, payload string) vectors.Vector {
	v.Transport, v.WSPong = "open", []byte(payload)
	return v
}

// closes expects a Close frame with this code, or "none".
func closes(v vectors.Vector, code string) vectors.Vector {
	v.Transport, v.Close = "open", code
	return v
}
