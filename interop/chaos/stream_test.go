package chaos

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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

	carrier preflight.Carrier // of the client alone; empty: CarrierUpgrade
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

// A traffic is what an end of a tunnel has sent and received.
type traffic struct {
	sent, received int64
	// clean says that Read has returned io.EOF: nothing is missing, with a carrier that
	// can tell.
	clean bool
}

// A tunnel is an end of a tunnel that counts its traffic.
type tunnel struct {
	*preflight.Conn
	traffic
}

func (c *tunnel) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received += int64(n)
	c.clean = c.clean || err == io.EOF
	return n, err
}

func (c *tunnel) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent += int64(n)
	return n, err
}

func (c *tunnel) WriteTo(w io.Writer) (int64, error) {
	n, err := c.Conn.WriteTo(w)
	c.received += n
	c.clean = c.clean || err == nil
	return n, err
}

func (c *tunnel) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.Conn.ReadFrom(r)
	c.sent += n
	return n, err
}

// isFramed reports whether the end of a direction is part of the stream.
func (c *tunnel) isFramed() bool { return c.Carrier() != preflight.CarrierUpgrade }

// reset ends the connection below all layers.
func (c *tunnel) reset() {
	below := c.NetConn()
	for {
		counted, ok := below.(*countedConn)
		if ok {
			counted.SetLinger(0)
			counted.Close()
			return
		}
		below = below.(interface{ NetConn() net.Conn }).NetConn()
	}
}

// converse sends a stream and its end mark, receives those of the peer at the same time,
// and closes c. The error is nil only if everything arrived in both directions. leaves is
// when this end leaves, as in a plan.
func (p plan) converse(conn *preflight.Conn, from, to byte, leaves int64) (traffic, error) {
	c := &tunnel{Conn: conn}
	defer c.Close()
	c.SetDeadline(time.Now().Add(p.limit))
	err := p.exchange(c, from, to, leaves)
	return c.traffic, err
}

func (p plan) exchange(c *tunnel, from, to byte, leaves int64) error {
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
	if err := expectMark(c, fromServer); err != nil || !c.isFramed() {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	return expectEnd(c)
}

// endServer sends the end mark of the server after that of the client, which tells the
// client that everything arrived. Then the client closes the tunnel, because a proxy loses
// data that is under way to the end that closes.
func endServer(c *tunnel) error {
	if err := expectMark(c, fromClient); err != nil {
		return err
	}
	if _, err := c.Write([]byte{fromServer}); err != nil {
		return err
	}
	return expectEnd(c)
}

// expectEnd requires the end of the tunnel. With CarrierUpgrade, a proxy may turn it into
// something else.
func expectEnd(c *tunnel) error {
	n, err := io.Copy(io.Discard, c)
	if n > 0 {
		return fmt.Errorf("%w: %d bytes too many", errCorrupt, n)
	}
	if c.isFramed() {
		return err
	}
	return nil
}

func expectMark(c *tunnel, of byte) error {
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
func (p plan) receive(c *tunnel, to byte, leaves int64) error {
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
				c.reset()
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
