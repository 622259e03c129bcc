package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The kinds of use of a tunnel. The first byte says which one it is.
const (
	soakEcho        byte = iota // the server answers with the checksum when the client has ended
	soakServerFirst             // the server sends and ends first; the client then sends as much
	soakClientReset             // the client resets, when the server has answered a byte
	soakServerReset             // the server resets
	soakKinds
)

// A soakServer counts what it sees.
type soakServer struct{ ended, resets atomic.Int64 }

func (s *soakServer) serve(c *net.TCPConn) {
	var first [2]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return // an unused tunnel of --idle
	}
	switch first[0] {
	case soakEcho:
		hash := sha256.New()
		if _, err := io.Copy(hash, c); err == nil {
			c.Write(hash.Sum(nil))
			s.ended.Add(1)
		}
	case soakServerFirst:
		c.Write(soakBytes(first[1]))
		c.CloseWrite()
		if got, err := io.ReadAll(c); err == nil && bytes.Equal(got, soakBytes(first[1]+1)) {
			s.ended.Add(1)
		}
	case soakClientReset:
		c.Write(first[1:])
		if _, err := io.Copy(io.Discard, c); errors.Is(err, syscall.ECONNRESET) {
			s.resets.Add(1)
		}
	case soakServerReset:
		c.SetLinger(0)
	}
}

// soakBytes are up to 256 KiB, the same ones for the same seed.
func soakBytes(seed byte) []byte {
	r := rand.NewChaCha8([32]byte{seed})
	b := make([]byte, r.Uint64()%(256<<10))
	r.Read(b)
	return b
}

// use uses a tunnel, and checks what comes back.
func use(address string, kind, seed byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte{kind, seed}); err != nil {
		return err
	}
	var want []byte
	switch sent := soakBytes(seed); kind {
	case soakEcho:
		if _, err := c.Write(sent); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		hash := sha256.Sum256(sent)
		want = hash[:]
	case soakServerFirst:
		want = sent
	case soakClientReset:
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
		return c.SetLinger(0)
	}
	got, err := io.ReadAll(c)
	switch {
	case kind == soakServerReset && !errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the reset of the server arrives as %v", err)
	case kind == soakServerReset:
		return nil
	case err != nil:
		return err
	case !bytes.Equal(got, want):
		return fmt.Errorf("%d bytes come back, and not the %d that are right", len(got), len(want))
	case kind == soakServerFirst:
		if _, err := c.Write(soakBytes(seed + 1)); err != nil {
			return err
		}
		return c.CloseWrite()
	}
	return nil
}

// TestSoak opens, uses, half-closes and resets tunnels of each carrier while SIGHUP changes the
// flags of both programs. In the end every byte was right and nothing is left.
func TestSoak(t *testing.T) {
	var server soakServer
	target := listen(t, server.serve)
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		// Replaced at once, so that nobody reads half of it.
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
		return path
	}
	// What the files say in turn. With the even ones there are no unused tunnels, which would count.
	serveText := func(n int) string {
		return fmt.Sprintf("allow-all: true\nrequire-upgrade: true\nto: %s\nmax-conns: %d\n", target, 600+n)
	}
	forwardText := func(n int) string { return fmt.Sprintf("idle: %d\nhalf-close-timeout: %dm\n", 2*(n%2), 5+n) }
	serve := startCounted(t, "serve", "--listen", "127.0.0.1:0", "--max-idle", "0", "--config", file("serve.yaml", serveText(0)))
	processes := []*countedProcess{serve}
	for _, carrier := range []string{"upgrade", "framed", "websocket"} {
		processes = append(processes, startCounted(t, "forward", "--map", "127.0.0.1:0=http://"+serve.address+"/", "--carrier", carrier, "--config", file("forward.yaml", forwardText(0))))
	}
	forwards := processes[1:]

	// run uses uses*soakKinds tunnels of each carrier, while the files change reloads times.
	changes, begun := 0, int64(0) // begun is of each kind
	run := func(uses, reloads int) {
		var running sync.WaitGroup
		running.Go(func() {
			for range reloads {
				changes++
				file("serve.yaml", serveText(changes))
				file("forward.yaml", forwardText(changes))
				for _, p := range processes {
					p.cmd.Process.Signal(syscall.SIGHUP)
				}
				for _, p := range processes {
					if !p.awaitLogged(`msg=reloaded flag=config`, changes) {
						t.Error("the flags are not read again")
						return
					}
				}
			}
		})
		for _, f := range forwards {
			running.Go(func() {
				each(t, uses*int(soakKinds), func(i int) error {
					kind := byte(i) % soakKinds
					if err := use(f.address, kind, byte(i/int(soakKinds))); err != nil {
						return fmt.Errorf("kind %d: %w", kind, err)
					}
					return nil
				})
			})
		}
		running.Wait()
		begun += int64(uses * len(forwards))
		require.Eventually(t, func() bool { return server.ended.Load() == 2*begun && server.resets.Load() == begun }, timeout, 10*time.Millisecond,
			"the server has not seen the end of each tunnel")
	}
	begin := make([]processCounts, len(processes))
	for i, p := range processes {
		begin[i] = p.counts(t)
	}
	run(16, 2)
	for i, p := range processes { // with the memory that is kept for use again
		begin[i] = p.awaitCounts(t, begin[i].descriptors, begin[i].goroutines)
	}
	const uses = 60
	run(uses, 10)
	for i, p := range processes {
		end := p.awaitCounts(t, begin[i].descriptors, begin[i].goroutines)
		t.Logf("%v: %+v, then %+v", p.cmd.Args[:2], begin[i], end)
		// A framed tunnel leaves a timer of three objects until --max-idle has passed, which serve
		// does not have here. One object more for each tunnel would be too many.
		tunnels, timers := uses*int(soakKinds), 3
		if p == serve {
			tunnels, timers = tunnels*len(forwards), 0
		}
		require.Less(t, end.objects-begin[i].objects, (timers+1)*tunnels)
		require.Zero(t, p.logged(`level=WARN|level=ERROR`))
	}
	// Two kinds end by a reset. forward also cuts unused tunnels of --idle, which have sent nothing.
	require.EqualValues(t, 2*begun, serve.logged(`msg="closed early" .* sent=2 `))
	require.EqualValues(t, 2*begun, serve.logged(`msg=closed .* sent=[1-9]`))
}
