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

// A plan is what the two ends of a tunnel do. The client sends it to the server as the
// query of its request.
type plan struct {
	id    uint64
	size  int64         // bytes that each end sends
	limit time.Duration // the timeout of each end
	hold  bool          // the server holds the handshake
	// An end leaves after it has received so many bytes. Zero means that it stays.
	clientLeaves, serverLeaves int64
	resets                     bool // the end that leaves resets the connection
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
	errCorrupt = errors.New("corrupt")    // a byte differs from the one that was sent
	errLeft    = errors.New("left early") // as the plan says
)

// converse sends a stream and its end mark, receives those of the peer at the same time,
// and closes c. The error is nil only if everything arrived in both directions. leaves is
// when this end leaves, as in a plan.
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
		c.Close() // ends the sending too
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

// endServer sends the end mark of the server after that of the client, which tells the
// client that everything arrived. Then the client closes the tunnel, because a proxy loses
// data that is under way to the end that closes.
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

// receive requires the stream of the peer, as far as it arrives.
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

// stream returns what an end sends. Both ends know the bytes, and no other stream has the
// same. A lost, changed or moved byte is therefore noticed.
func (p plan) stream(from byte) *rand.ChaCha8 {
	seed := [32]byte{from}
	binary.BigEndian.PutUint64(seed[1:], p.id)
	return rand.NewChaCha8(seed)
}
