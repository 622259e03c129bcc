package chaos

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/preflight-go/preflight"
)

// A plan is what the two ends of a tunnel are to do. The client sends it along, as
// the query of its request.
type plan struct {
	id    uint64
	size  int64         // of what each end sends
	limit time.Duration // that each end has for its part
	hold  bool          // the server holds the handshake
	// After so many bytes that it has received an end goes away; 0: it stays.
	clientLeaves, serverLeaves int64
	resets                     bool // who goes away does so by a reset
}

const planFormat = "id=%d&size=%d&limit=%d&hold=%t&client=%d&server=%d&resets=%t"

func (p plan) query() string {
	return fmt.Sprintf(planFormat, p.id, p.size, p.limit, p.hold, p.clientLeaves, p.serverLeaves, p.resets)
}

func parsePlan(query string) (p plan, err error) {
	_, err = fmt.Sscanf(query, planFormat, &p.id, &p.size, &p.limit, &p.hold, &p.clientLeaves, &p.serverLeaves, &p.resets)
	return p, err
}

const (
	fromClient byte = 'c'
	fromServer byte = 's'
)

var (
	errCorrupt = errors.New("corrupt")   // a byte is not the one that was sent there
	errLeft    = errors.New("went away") // as planned
)

// converse sends a stream and its end mark while it receives those of the peer,
// and closes c. There is no error only if all of it went both ways. leaves
// is when it goes away, as in a plan.
func (p plan) converse(c *preflight.Conn, from, to byte, leaves int64) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(p.limit))
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c, p.stream(from), p.size)
		sent <- err
	}()
	err := p.receive(c, to, leaves)
	if err != nil {
		c.Close() // so that sending ends too
	}
	if err = errors.Join(err, <-sent); err != nil {
		return err
	}
	if from == fromServer {
		return endServer(c)
	}
	if _, err := c.Write([]byte{fromClient}); err != nil {
		return err
	}
	return expectMark(c, fromServer)
}

// endServer sends its end mark behind that of the client: with it the client knows
// that all is well. Then the client ends the tunnel, because proxies lose what is
// under way to who does.
func endServer(c *preflight.Conn) error {
	if err := expectMark(c, fromClient); err != nil {
		return err
	}
	if _, err := c.Write([]byte{fromServer}); err != nil {
		return err
	}
	if n, _ := io.Copy(io.Discard, c); n > 0 {
		return fmt.Errorf("%w: %d bytes too many", errCorrupt, n)
	}
	return nil
}

func expectMark(c *preflight.Conn, of byte) error {
	mark := make([]byte, 1)
	if _, err := io.ReadFull(c, mark); err != nil {
		return fmt.Errorf("the end mark: %w", err)
	}
	if mark[0] != of {
		return fmt.Errorf("%w: the end mark is %q", errCorrupt, mark)
	}
	return nil
}

// receive requires the peer's stream, as far as it comes.
func (p plan) receive(c *preflight.Conn, to byte, leaves int64) error {
	expected := p.stream(to)
	got, want := make([]byte, 16<<10), make([]byte, 16<<10)
	for received := int64(0); received < p.size; {
		n, err := c.Read(got[:min(int64(len(got)), p.size-received)])
		expected.Read(want[:n])
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("%w: within %d bytes from %d", errCorrupt, n, received)
		}
		received += int64(n)
		if leaves > 0 && received >= leaves {
			if p.resets {
				c.NetConn().(*countedConn).SetLinger(0)
			}
			return errLeft
		}
		if err != nil && received < p.size {
			return fmt.Errorf("after %d of %d bytes: %w", received, p.size, err)
		}
	}
	return nil
}

// stream is what an end sends: bytes that both know, and that are in no other
// stream. So none can be lost, changed or moved unseen.
func (p plan) stream(from byte) *rand.ChaCha8 {
	seed := [32]byte{from}
	binary.BigEndian.PutUint64(seed[1:], p.id)
	return rand.NewChaCha8(seed)
}
