package dialer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const fwdOpens = "HTTP/1.1 200 OK\r\n\r\n" // the answer to CONNECT

// fwdAnswers is a server that gives each connection the next answer, and
// repeats the last one. It records the heads.
func fwdAnswers(t testing.TB, heads chan<- string, answers ...string) string {
	t.Helper()
	var n atomic.Int32
	return fwdServe(t, func(c net.Conn) {
		heads <- testkit.ReadRequest(c)
		answer := answers[min(int(n.Add(1)), len(answers))-1]
		io.WriteString(c, answer)
		switch answer {
		case fwdOpens:
			testkit.ReadRequest(c)
			io.WriteString(c, testkit.UpgradeAnswer)
			fallthrough
		case testkit.UpgradeAnswer:
			fwdEcho(c)
		}
	})
}

// TestGetHeaderReplaces: the fields of GetHeader replace those of the same
// name. GetHeader gets the context of the dial.
func TestGetHeaderReplaces(t *testing.T) {
	for name, test := range map[string]struct {
		header, fresh http.Header
		want          string // the lines after Upgrade
	}{
		"nil":             {http.Header{"X-A": {"1"}}, nil, "X-A: 1\r\n"},
		"empty":           {http.Header{"X-A": {"1"}}, http.Header{}, "X-A: 1\r\n"},
		"both nil":        {nil, nil, ""},
		"alone":           {nil, http.Header{"X-A": {"1", "2"}}, "X-A: 1\r\nX-A: 2\r\n"},
		"replaces":        {http.Header{"X-A": {"1", "2"}, "X-B": {"3"}}, http.Header{"X-A": {"4"}}, "X-A: 4\r\nX-B: 3\r\n"},
		"case is ignored": {http.Header{"x-A": {"1"}, "X-A": {"2"}}, http.Header{"X-a": {"4"}}, "X-a: 4\r\n"},
		"removes":         {http.Header{"X-A": {"1"}, "X-B": {"3"}}, http.Header{"x-a": nil}, "X-B: 3\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			heads := make(chan string, 2)
			calls := 0
			before := test.header.Clone()
			d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, Host: "edge.example", Header: test.header, GetHeader: func(ctx context.Context, refused *preflight.StatusError) (http.Header, error) {
				calls++
				assert.Nil(t, refused)
				assert.Equal(t, "mine", ctx.Value(fwdKey{}))
				return test.fresh, nil
			}}
			conn, err := d.DialContext(context.WithValue(t.Context(), fwdKey{}, "mine"), "tcp", fwdAnswers(t, heads, testkit.UpgradeAnswer))
			require.NoError(t, err)
			fwdEnds(t, conn)
			require.Equal(t, 1, calls)
			require.Equal(t, "GET / HTTP/1.1\r\nHost: edge.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nPreflight-Carriers: upgrade\r\n"+test.want+"\r\n", fwdNext(t, heads))
			require.Equal(t, before, d.Header, "the caller's Header was changed")
		})
	}
}

// TestGetHeaderRefused: after a 401 or 407, and after no other status,
// GetHeader is called once more and the dial is tried once more on a new
// connection.
func TestGetHeaderRefused(t *testing.T) {
	const (
		bad401 = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"expired\"\r\nContent-Length: 3\r\n\r\nold"
		bad407 = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n"
	)
	for name, test := range map[string]struct {
		answers     []string
		code        int // of the error; 0: no error
		connections int
	}{
		"401, then 101": {[]string{bad401, testkit.UpgradeAnswer}, 0, 2},
		"407, then 101": {[]string{bad407, testkit.UpgradeAnswer}, 0, 2},
		"401 twice":     {[]string{bad401, bad401, testkit.UpgradeAnswer}, 401, 2},
		"401, then 407": {[]string{bad401, bad407, testkit.UpgradeAnswer}, 407, 2},
		"401, then 503": {[]string{bad401, "HTTP/1.1 503 Busy\r\n\r\n", testkit.UpgradeAnswer}, 503, 2},
		"403":           {[]string{"HTTP/1.1 403 No\r\n\r\n", testkit.UpgradeAnswer}, 403, 1},
		"503":           {[]string{"HTTP/1.1 503 Busy\r\n\r\n", testkit.UpgradeAnswer}, 503, 1},
	} {
		for _, byProxy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/byProxy=%v", name, byProxy), func(t *testing.T) {
				heads := make(chan string, 3)
				network := &fwdNet{}
				answers := slices.Clone(test.answers)
				if i := slices.Index(answers, testkit.UpgradeAnswer); byProxy && i >= 0 {
					answers[i] = fwdOpens
				}
				address := fwdAnswers(t, heads, answers...)
				var refusals []*preflight.StatusError
				field := "Authorization"
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network}
				if byProxy {
					field, d.Proxy = "Proxy-Authorization", fwdBy(t, "http://"+address)
				}
				d.GetHeader = func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
					refusals = append(refusals, refused)
					return http.Header{field: {fmt.Sprintf("Bearer s3cr3t-%d", len(refusals))}}, nil
				}
				conn, err := d.Dial("tcp", address)
				require.Len(t, refusals, test.connections)
				require.Nil(t, refusals[0])
				if test.connections == 2 {
					require.NotNil(t, refusals[1])
					require.Equal(t, byProxy, refusals[1].ForwardProxy)
					challenge := refusals[1].Header.Get("WWW-Authenticate") + refusals[1].Header.Get("Proxy-Authenticate")
					require.NotEmpty(t, challenge)
					if refusals[1].StatusCode == 401 {
						require.Equal(t, "old", string(refusals[1].Body))
					}
				}
				for i := range test.connections {
					require.Contains(t, fwdNext(t, heads), fmt.Sprintf("\r\n%s: Bearer s3cr3t-%d\r\n", field, i+1))
				}
				if test.code == 0 {
					require.NoError(t, err)
					require.NoError(t, conn.Close())
				} else {
					require.Nil(t, conn)
					require.Equal(t, test.code, testkit.StatusError(t, err).StatusCode)
					testkit.RequireNoSecret(t, err)
				}
				network.closed(t, test.connections)
			})
		}
	}
	t.Run("without GetHeader", func(t *testing.T) {
		network := &fwdNet{}
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network}
		_, err := d.Dial("tcp", fwdAnswers(t, make(chan string, 2), bad401, testkit.UpgradeAnswer))
		require.Equal(t, 401, testkit.StatusError(t, err).StatusCode)
		network.closed(t, 1)
	})
	// DialURL without an upgrade can meet only one refusal, that of the forward
	// proxy.
	t.Run("407 of DialURL without an upgrade", func(t *testing.T) {
		heads, network := make(chan string, 2), &fwdNet{}
		d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, Proxy: fwdBy(t, "http://"+fwdAnswers(t, heads, bad407, fwdOpens))}
		d.GetHeader = func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
			return http.Header{"Proxy-Authorization": {fmt.Sprintf("fresh=%v", refused != nil)}}, nil
		}
		conn, err := d.DialURL(t.Context(), "tcp://edge.example:25")
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.Contains(t, fwdNext(t, heads), "fresh=false")
		require.Contains(t, fwdNext(t, heads), "fresh=true")
	})
}

// TestGetHeaderFails: an error of GetHeader ends the dial, in the first and in
// the second attempt. It does not matter what the error wraps. A field that
// GetHeader may not return ends it too.
func TestGetHeaderFails(t *testing.T) {
	errGone := errors.New("the token service is down")
	// A token service that refuses is not a refusal of this dial.
	refusal := fmt.Errorf("token service: %w", &preflight.StatusError{StatusCode: 401})
	for name, fail := range map[string]struct {
		header http.Header
		err    error
		text   string
	}{
		"error":            {nil, errGone, "GetHeader: the token service is down"},
		"refusal":          {nil, refusal, "GetHeader: token service"},
		"reserved field":   {http.Header{"upgrade": {"s3cr3t"}}, nil, "Upgrade"},
		"reserved framing": {http.Header{"Content-Length": {"1"}}, nil, "Content-Length"},
		"injection":        {http.Header{"Authorization": {"s3cr3t\r\nX: y"}}, nil, "Authorization"},
		"no field name":    {http.Header{"X Y": {"s3cr3t"}}, nil, `"X Y"`},
	} {
		for attempt := 1; attempt <= 2; attempt++ {
			t.Run(fmt.Sprintf("%s/attempt %d", name, attempt), func(t *testing.T) {
				network, calls := &fwdNet{}, 0
				d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone, NetDialer: network, GetHeader: func(context.Context, *preflight.StatusError) (http.Header, error) {
					if calls++; calls < attempt {
						return nil, nil
					}
					return fail.header, fail.err
				}}
				conn, err := d.Dial("tcp", fwdAnswers(t, make(chan string, 2), "HTTP/1.1 401 Unauthorized\r\n\r\n"))
				require.Nil(t, conn)
				require.ErrorContains(t, err, "preflight: ")
				require.ErrorContains(t, err, fail.text)
				if fail.err != nil {
					require.ErrorIs(t, err, fail.err)
				}
				testkit.RequireNoSecret(t, err)
				require.Equal(t, attempt, calls)
				network.closed(t, attempt-1)
			})
		}
	}
}

// TestGetHeaderConcurrently: the token expires in the middle of a hundred
// dials. Each dial with the old token is refused once.
func TestGetHeaderConcurrently(t *testing.T) {
	const dials = 100
	var current, served atomic.Int32
	server := fwdServe(t, func(c net.Conn) {
		head := testkit.ReadRequest(c)
		if served.Add(1) == dials/2 {
			current.Store(1)
		}
		if !strings.Contains(head, fmt.Sprintf("\r\nAuthorization: Bearer %d\r\n", current.Load())) {
			io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(c, testkit.UpgradeAnswer)
		fwdEcho(c)
	})
	network := &fwdNet{}
	var mu sync.Mutex
	token, refusals := http.Header{"Authorization": {"Bearer 0"}}, 0
	d := preflight.PreflightDialer{Carriers: testkit.UpgradeAlone,
		NetDialer: network,
		Header:    http.Header{"Authorization": {"none"}, "X-A": {"1"}},
		GetHeader: func(_ context.Context, refused *preflight.StatusError) (http.Header, error) {
			mu.Lock()
			defer mu.Unlock()
			if refused != nil {
				refusals++
				token = http.Header{"Authorization": {"Bearer 1"}}
			}
			return token, nil
		},
	}
	var all sync.WaitGroup
	for range dials {
		all.Go(func() {
			conn, err := d.DialContext(t.Context(), "tcp", server)
			if assert.NoError(t, err) {
				assert.NoError(t, conn.Close())
			}
		})
	}
	all.Wait()
	require.NotZero(t, refusals)
	network.closed(t, dials+refusals)
}
