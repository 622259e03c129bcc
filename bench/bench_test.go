package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is also the main function of the measured processes.
func TestMain(m *testing.M) {
	if isMeasured(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

// TestEveryRow measures everything once. It requires no values: with
// the race detector, on a busy machine, they mean nothing.
func TestEveryRow(t *testing.T) {
	// With the race detector, each of the many processes would sleep for a second at its end.
	t.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")
	once := little
	once.repetitions, once.few, once.framings = 1, 1, 1
	once.one, once.many, once.feats, once.echoes = 25, 100, 500, 200
	once.bulk = 8 << 20
	r, err := run(t.Context(), once, t.Output())
	require.NoError(t, err)
	require.Empty(t, r.notes)
	measured := make(map[string]bool)
	for _, s := range r.sections {
		measured[s.key] = true
		require.NotEmpty(t, s.samples.rows, s.title)
		for _, row := range s.samples.rows {
			for _, c := range s.columns {
				if !blank(row, c.head) {
					require.NotContains(t, c.cell(s.samples, row), none, "%s: %s: %s", s.title, row, c.head)
				}
			}
		}
	}
	for _, key := range []string{keyOne, keyLoose, keyMany, keyMemory, keySyscalls, keyTelemetry, keyProxies, keyTLS, keyResumption, keySteady, keyTLSSteady, keyFraming, keyBusy, keyProfile, keyCarriers, keyRelay, keyTLSRelay, keyCommand, keyCommandMemory, keyChurn, keyIdle, keyStuck, keyWaiting, keyMap, keyGrowth} {
		require.True(t, measured[key], key)
	}
	require.NotContains(t, r.budgets(), "not measured")

	dir := t.TempDir()
	require.NoError(t, r.write(dir))
	report, err := os.ReadFile(filepath.Join(dir, "RESULTS.md"))
	require.NoError(t, err)
	for _, s := range r.sections {
		require.Contains(t, string(report), s.title)
	}
	for _, name := range plots {
		svg, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Contains(t, string(svg), "</svg>")
	}
}

// blank reports whether a cell has nothing to measure.
func blank(row, head string) bool {
	switch row {
	case direct:
		return head == "proxy CPU"
	case blockedReader: // of the stuck clients
		return strings.Contains(head, "rate") || strings.Contains(head, "stuck")
	}
	return false
}

func TestPairedRatio(t *testing.T) {
	s := newSamples("base", "row")
	for _, v := range []float64{10, 20, 400} { // the last repetition was disturbed
		s.add("base", elapsed, v)
		s.add("row", elapsed, 2*v)
	}
	require.Equal(t, spread{2, 0}, s.ratio("row", "base", elapsed))
	require.Equal(t, 20.0, s.median("base", elapsed))
	require.Equal(t, none, s.ratio("row", "base", rate).String())
}

func TestCallsThatSucceeded(t *testing.T) {
	trace := &tracer{file: filepath.Join(t.TempDir(), "strace")}
	require.NoError(t, os.WriteFile(trace.file, []byte(`11    accept4(3<socket:[100]>, NULL, NULL, SOCK_CLOEXEC|SOCK_NONBLOCK) = 7<socket:[101]>
11    read(7<socket:[101]>, ""..., 512) = 198
12    read(5<anon_inode:[eventfd]>,  <unfinished ...>
11    read(7<socket:[101]>, 0xc000010000, 512) = -1 EAGAIN (Resource temporarily unavailable)
12    <... read resumed>""..., 16) = 8
11    write(7<socket:[101]>, ""..., 76 <unfinished ...>
12    +++ exited with 0 +++
11    <... write resumed>) = 76
11    read(7<socket:[101]>, "", 512) = 0
`), 0o600))
	calls, err := trace.calls()
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"accept4": 1, "read": 2, "write": 1}, calls)
}

func TestBudgetVerdict(t *testing.T) {
	require.True(t, budget{limit: 3, value: 3.04, count: true}.met())
	require.False(t, budget{limit: 3, value: 3.6, count: true}.met())
	require.False(t, budget{limit: 1.2, value: 1.21}.met())
	require.True(t, budget{limit: 0.7, value: 0.9, floor: true}.met())
	require.False(t, budget{limit: 0.7, value: 0.6, floor: true}.met())
}

func TestClassOf(t *testing.T) {
	for class, stacks := range map[string][]string{
		inKernel: {
			"internal/runtime/syscall/linux.Syscall6 syscall.RawSyscall6 syscall.Syscall syscall.write internal/poll.(*FD).Write net.(*netFD).Write",
			"internal/runtime/syscall/linux.Syscall6 internal/runtime/syscall/linux.EpollCtl runtime.netpollopen internal/poll.runtime_pollOpen",
		},
		inScheduler: {
			"internal/runtime/syscall/linux.Syscall6 internal/runtime/syscall/linux.EpollWait runtime.netpoll runtime.findRunnable runtime.schedule",
			"runtime.futex runtime.futexwakeup runtime.notewakeup runtime.startm",
			"internal/runtime/atomic.(*Uint32).CompareAndSwap runtime.exitsyscall syscall.Syscall net.(*conn).Write",
		},
		inMemoryOf: {
			"runtime.memclrNoHeapPointers runtime.mallocgc runtime.newobject github.com/preflight-go/preflight.newConn",
			"runtime.futex runtime.gcStart runtime.mallocgc main.f",
			"runtime.pcvalue runtime.adjustframe runtime.copystack runtime.newstack github.com/preflight-go/preflight.(*exchange).serve",
		},
		inNet: {"internal/poll.(*fdMutex).rwlock internal/poll.(*FD).Read net.(*conn).Read github.com/preflight-go/preflight.(*Conn).Read"},
		inMasking: {
			"crypto/internal/fips140/sha1.block crypto/sha1.Sum github.com/preflight-go/preflight/internal/websocket.Accept",
			"crypto/internal/fips140/subtle.xorBytes crypto/subtle.XORBytes github.com/preflight-go/preflight/internal/websocket.maskPattern",
			"github.com/preflight-go/preflight/internal/websocket.maskWords github.com/preflight-go/preflight/internal/frame.(*Conn).move",
		},
		inOurs: {
			"runtime.memmove github.com/preflight-go/preflight/internal/frame.(*Conn).move github.com/preflight-go/preflight/internal/frame.(*Conn).Read",
			"indexbytebody bytes.IndexByte github.com/preflight-go/preflight/internal/wire.field",
		},
		inOthers: {"aeshashbody runtime.mapaccess1_faststr net/textproto.readMIMEHeader net/http.ReadResponse", "main.(*client).handshakes.func1"},
	} {
		for _, stack := range stacks {
			require.Equal(t, class, classOf(strings.Fields(stack)), stack)
		}
	}
}
