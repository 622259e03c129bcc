package preflight

import (
	"errors"
	"sync"

	"github.com/preflight-go/preflight/internal/wire"
)

// A watch inspects the bytes that a plain connection reads, as long as they may still
// turn out to be HTTP.
type watch struct {
	// reading covers a Read and the inspection of its bytes, so that no other Read
	// returns the bytes after a request line.
	reading sync.Mutex
	sniffer wire.Sniffer
	verdict wire.Verdict
	left    int // bytes still to be inspected
}

// watchLimit is the most bytes of a connection that are inspected. Without a limit, a
// protocol whose first line never ends would never get splice. No proxy forwards a
// longer request line unless it is configured to: the largest default is the 1 MiB of
// net/http, which Caddy and Traefik use.
const watchLimit = 1 << 20

// errHTTP ends a connection that was taken for plain.
var errHTTP = errors.New("an HTTP request on a connection that began as a plain one; it was closed")

// readWatched is Read while there is a watch. ended is the error of Conn.ended.
func (c *Conn) readWatched(w *watch, b []byte, ended error) (n int, err error) {
	w.reading.Lock()
	defer w.reading.Unlock()
	if w.verdict != wire.HTTP {
		if ended != nil {
			return 0, ended
		}
		n, err = c.conn.Read(b)
	}
	if w.verdict == wire.More {
		w.inspect(b[:n])
		switch w.verdict {
		case wire.Plain:
			c.mu.Lock()
			c.watch = nil
			c.setLeftover(c.leftover)
			c.mu.Unlock()
		case wire.HTTP:
			clear(b[:n])
			c.Close()
		}
	}
	if w.verdict == wire.HTTP {
		return 0, c.opError("read", errHTTP)
	}
	return n, err
}

// inspect sets the verdict as soon as there is one. At the limit the verdict is plain.
func (w *watch) inspect(b []byte) {
	w.left -= len(b)
	if v := w.sniffer.Feed(b); v == wire.Plain || v == wire.HTTP {
		w.verdict = v
	} else if w.left <= 0 {
		w.verdict = wire.Plain
	}
}
