package attack_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
)

// The attacked server is a second process of this program. A process may have
// 20 000 descriptors, and client and server need 10 000 each. In a separate
// process the test can also count what the server holds.

// attackEnv holds the attackConfig of the server process.
const attackEnv = "PREFLIGHT_ATTACK_SERVER"

// This is not in TestMain, because TestMain also checks for leaked goroutines.
func init() {
	if s := os.Getenv(attackEnv); s != "" {
		if err := attackServe(s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0) // the exit code differs if there was a data race
	}
}

type attackConfig struct {
	Raw              bool   // no PreflightListener: the application accepts from the socket directly
	HTTP             bool   // the application is an http.Server, not a loop that echoes
	Tune             string // one of attackTune
	RequireUpgrade   bool
	MaxPending       int
	HandshakeTimeout time.Duration
	Descriptors      uint64 // the descriptor limit; 0 leaves it unchanged
	// Observe counts the bytes that are read, and the connections that Accept
	// returns by their kind. It costs memory, because it wraps the connections
	// and parses the requests.
	Observe bool
	// Collect lets the garbage collector run. Without it, a connection that the
	// listener forgot to close stays open, so the test sees it.
	Collect bool
}

// attackTune holds changes to the listener that an attackConfig can name.
var attackTune = map[string]func(*preflight.PreflightListener){}

// attackStats is the server's answer to a line on its standard input.
type attackStats struct {
	Goroutines, Descriptors int
	MaxGoroutines           int // the times at which connections were accepted

	Calls, Accepted, Errors int // errors of the wrapped Accept
	Plain, Upgraded         int // returned to the application; see Observe
	AppErrors               int // errors returned to the application
	BytesRead               int // see Observe

	RSS, Stack, Heap int // bytes
}

// attackHost is what runs in the server process.
type attackHost struct {
	config attackConfig
	mu     sync.Mutex
	stats  attackStats

	// It is open from the start, because under attack there may be no free
	// descriptor.
	descriptors, status *os.File
}

// attackServe serves until its standard input ends, which it does when the test
// ends in any way.
func attackServe(config string) error {
	h := new(attackHost)
	err := json.Unmarshal([]byte(config), &h.config)
	if err != nil {
		return err
	}
	if !h.config.Collect {
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(2 << 30)
	}
	if h.descriptors, err = os.Open("/proc/self/fd"); err != nil {
		return err
	}
	if h.status, err = os.Open("/proc/self/status"); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if h.config.Descriptors > 0 {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		limit.Cur = h.config.Descriptors
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
	}
	fmt.Println(l.Addr())
	go h.serve(&attackInner{l, h})
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := out.Encode(h.measure(in.Text() == "memory")); err != nil {
			return err
		}
	}
	return nil
}

func (h *attackHost) serve(l net.Listener) {
	if !h.config.Raw {
		p := &preflight.PreflightListener{
			Listener: l, RequireUpgrade: h.config.RequireUpgrade, MaxPending: h.config.MaxPending,
			HandshakeTimeout: h.config.HandshakeTimeout,
		}
		if h.config.Tune != "" {
			attackTune[h.config.Tune](p)
		}
		l = p
	}
	l = &attackOuter{l, h}
	if h.config.HTTP {
		s := http.Server{
			Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") }),
			ErrorLog: log.New(io.Discard, "", 0),
		}
		s.Serve(l)
		return
	}
	for delay := time.Duration(0); ; {
		c, err := l.Accept()
		var passing interface{ Temporary() bool }
		switch {
		case err == nil:
			delay = 0
			go attackEcho(c)
		case errors.As(err, &passing) && passing.Temporary():
			delay = min(max(2*delay, 5*time.Millisecond), time.Second) // as net/http does
			time.Sleep(delay)
		default:
			return
		}
	}
}

func attackEcho(c net.Conn) {
	defer c.Close()
	var b [64]byte
	for {
		n, err := c.Read(b[:])
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// count updates the counters.
func (h *attackHost) count(f func(*attackStats)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.stats)
}

func (h *attackHost) measure(collect bool) attackStats {
	if collect {
		runtime.GC()
		runtime.GC() // the first collection moves the content of a sync.Pool, the second frees it
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		h.count(func(s *attackStats) { s.Stack, s.Heap, s.RSS = int(m.StackInuse), int(m.HeapAlloc), h.rss() })
	}
	var names []string
	if _, err := h.descriptors.Seek(0, io.SeekStart); err == nil {
		names, _ = h.descriptors.Readdirnames(-1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stats
	s.Goroutines, s.Descriptors = runtime.NumGoroutine(), len(names)
	return s
}

func (h *attackHost) rss() int {
	b := make([]byte, 8<<10)
	n, _ := h.status.ReadAt(b, 0)
	var kib int
	if _, after, ok := strings.Cut(string(b[:n]), "VmRSS:"); ok {
		fmt.Sscan(after, &kib)
	}
	return kib << 10
}

// attackInner is the listener below the PreflightListener.
type attackInner struct {
	net.Listener
	host *attackHost
}

func (l *attackInner) Accept() (net.Conn, error) {
	l.host.count(func(s *attackStats) { s.Calls++ })
	c, err := l.Listener.Accept()
	l.host.count(func(s *attackStats) {
		s.MaxGoroutines = max(s.MaxGoroutines, runtime.NumGoroutine())
		if err != nil {
			s.Errors++
		} else {
			s.Accepted++
		}
	})
	if err == nil && l.host.config.Observe {
		c = &attackConn{c.(*net.TCPConn), l.host}
	}
	return c, err
}

// attackConn counts the bytes that are read.
type attackConn struct {
	*net.TCPConn
	host *attackHost
}

func (c *attackConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.host.count(func(s *attackStats) { s.BytesRead += n })
	return n, err
}

// attackOuter is the listener from which the application accepts.
type attackOuter struct {
	net.Listener
	host *attackHost
}

func (l *attackOuter) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		l.host.count(func(s *attackStats) { s.AppErrors++ })
		return nil, err
	}
	if conn, ok := c.(*preflight.Conn); ok && l.host.config.Observe {
		upgraded := conn.Request() != nil
		l.host.count(func(s *attackStats) {
			if upgraded {
				s.Upgraded++
			} else {
				s.Plain++
			}
		})
	}
	return c, nil
}
