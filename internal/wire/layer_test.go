package wire_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/preflight-go/preflight/internal/wire"
	"github.com/stretchr/testify/require"
)

const (
	kndSignature1 = "PROXY "
	kndSignature2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// kndHeader2 is the beginning of a PROXY header of version 2 with so many bytes to come.
func kndHeader2(length int) string {
	return kndSignature2 + "\x21\x11" + string(binary.BigEndian.AppendUint16(nil, uint16(length)))
}

// TestProxyHeader asks at every length of a header, and with data behind it.
func TestProxyHeader(t *testing.T) {
	endless := kndSignature1 + strings.Repeat("x", 200)
	for name, test := range map[string]struct {
		b         string
		signature string
		known     int // how much of b tells the length
		n         int
	}{
		"v1":                     {"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", kndSignature1, 42, 42},
		"v1 of no address":       {"PROXY UNKNOWN\r\n", kndSignature1, 15, 15},
		"v1, bare LF":            {"PROXY TCP4\n", kndSignature1, 11, 11},
		"v1, nothing in it":      {"PROXY \n", kndSignature1, 7, 7},
		"v1, CR is no end":       {"PROXY \r\r \r\n", kndSignature1, 11, 11},
		"v1 as long as it gets":  {endless[:106] + "\n", kndSignature1, 107, 107},
		"v1, a byte too long":    {endless[:107] + "\n", kndSignature1, 107, -1},
		"v1 without end":         {endless, kndSignature1, 107, -1},
		"v2 of nothing":          {kndHeader2(0), kndSignature2, 16, 16},
		"v2":                     {kndHeader2(12) + "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb", kndSignature2, 16, 28},
		"v2, both length bytes":  {kndHeader2(0x0102) + strings.Repeat("x", 0x0102), kndSignature2, 16, 16 + 0x0102},
		"v2 as long as it gets":  {kndHeader2(0xffff), kndSignature2, 16, 16 + 0xffff},
		"v2, an unknown version": {kndSignature2 + "\xff\xff\x00\x04last", kndSignature2, 16, 20},
	} {
		t.Run(name, func(t *testing.T) {
			b := []byte(test.b + "PROXY \n" + test.b)
			for i := range len(b) + 1 {
				m, n := wire.ProxyHeader(b[:i])
				wantM, wantN := wire.Maybe, 0
				if i >= len(test.signature) {
					wantM = wire.Yes
				}
				if i >= test.known {
					wantN = test.n
				}
				require.Equal(t, wantM, m, "%q", b[:i])
				require.Equal(t, wantN, n, "%q", b[:i])
			}
		})
	}
}

// TestProxyHeaderIsNoRequest asks at every length of a request line whose method
// is PROXY. No answer may say how long the header is.
func TestProxyHeaderIsNoRequest(t *testing.T) {
	for line, known := range map[string]int{
		"PROXY UNKNOWN HTTP/1.1\r\n":         21,
		"PROXY UNKNOWN HTTP/2\r\n":           21,
		"PROXY TCP4 http/0.9\r\n":            18,
		"PROXY TCP6 HTTP/\r\n":               17,
		"PROXY / HTTP/1.1\r\n":               15,
		"PROXY  HTTP/1.1\r\n":                14,
		"PROXY http://h/ HTTP/1.1\r\n":       23,
		"PROXY /a b HTTP/1.1\r\n":            21,
		"PROXY /a RTSP/1.0\n":                18,
		"PROXY /" + long(200) + " HTTP/1.1":  107,
		"PROXY http://" + long(200) + " HTT": 107,
	} {
		b := []byte(line + "PROXY UNKNOWN\r\n")
		for i := len(kndSignature1); i <= len(b); i++ {
			m, n := wire.ProxyHeader(b[:i])
			want := wire.Yes
			if i >= known {
				want = wire.No
			}
			require.Equal(t, want, m, "%q", b[:i])
			require.Zero(t, n, "%q", b[:i])
		}
	}
}

// TestProxyHeaderContradicted replaces each byte of both signatures.
func TestProxyHeaderContradicted(t *testing.T) {
	for _, signature := range []string{kndSignature1, kndSignature2} {
		for i := range signature {
			for _, c := range []byte{signature[i] ^ 0x20, signature[i] + 1, 0xff} {
				b := []byte(signature + "\x21\x11\x00\x00\r\n")
				b[i] = c
				for end := range len(b) + 1 {
					want := wire.Maybe
					if end > i {
						want = wire.No
					}
					m, n := wire.ProxyHeader(b[:end])
					require.Equal(t, want, m, "%q", b[:end])
					require.Zero(t, n)
				}
			}
		}
	}
}

// kndHello is a record with a ClientHello of so many bytes.
func kndHello(length int) []byte {
	b := binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(length))
	return append(b, 1, 0, 0, 0, 3, 3)
}

func TestClientHello(t *testing.T) {
	for _, length := range []int{1, 2, 4, 255, 256, 517, 1 << 14} {
		b := kndHello(length)
		for _, version := range []byte{0, 1, 2, 3, 4} {
			b[2] = version
			for i := range len(b) + 1 {
				m, n := wire.ClientHello(b[:i])
				if i < 6 {
					require.Equal(t, wire.Maybe, m, "% x", b[:i])
					require.Zero(t, n)
				} else {
					require.Equal(t, wire.Yes, m, "% x", b[:i])
					require.Equal(t, 5+length, n)
				}
			}
		}
	}
}

// TestClientHelloContradicted has one contradiction in each record, and the
// index of the byte with which no ClientHello can be meant any more. A client
// of another protocol may wait for its answer right behind that byte.
func TestClientHelloContradicted(t *testing.T) {
	type contradiction struct {
		index int
		b     []byte
	}
	var tests []contradiction
	for c := range 256 {
		for i, good := range map[int]func(byte) bool{
			0: func(b byte) bool { return b == 22 },
			1: func(b byte) bool { return b == 3 },
			2: func(b byte) bool { return b <= 4 },
			3: func(b byte) bool { return b <= 1<<14>>8 },
			5: func(b byte) bool { return b == 1 },
		} {
			if !good(byte(c)) {
				b := kndHello(512)
				b[i] = byte(c)
				tests = append(tests, contradiction{i, b})
			}
		}
	}
	for _, length := range []int{0, 1<<14 + 1, 1<<14 + 255} {
		tests = append(tests, contradiction{4, kndHello(length)})
	}
	for _, test := range tests {
		for end := range len(test.b) + 1 {
			want := wire.Maybe
			if end > test.index {
				want = wire.No
			}
			m, n := wire.ClientHello(test.b[:end])
			require.Equal(t, want, m, "% x, byte %d", test.b[:end], test.index)
			require.Zero(t, n)
		}
	}
}

// TestClientHelloOfCryptoTLS asks about what a client really sends.
func TestClientHelloOfCryptoTLS(t *testing.T) {
	for _, config := range []*tls.Config{
		{ServerName: "example.com"},
		{ServerName: "example.com", MaxVersion: tls.VersionTLS12},
		{ServerName: "example.com", NextProtos: []string{"h2", strings.Repeat("long", 60)}},
	} {
		b := kndRecord(t, config)
		m, n := wire.ClientHello(b)
		require.Equal(t, wire.Yes, m)
		require.Equal(t, len(b), n)
	}
}

// kndRecord is what a TLS client says first.
func kndRecord(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tls.Client(theirs, config).Handshake()
	}()
	defer func() { ours.Close(); theirs.Close(); <-done }()
	ours.SetDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 1<<15)
	n, err := ours.Read(b)
	require.NoError(t, err)
	return b[:n]
}

// FuzzLayers requires of both functions that more bytes never change an answer,
// but for a header that turns out to be a request line, that a Maybe is one, and
// that a length is that of the layer alone.
func FuzzLayers(f *testing.F) {
	src := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 56324}
	src6 := &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 56324}
	for _, h := range []*proxyproto.Header{
		proxyproto.HeaderProxyFromAddrs(1, src, src),
		proxyproto.HeaderProxyFromAddrs(1, src6, src6),
		proxyproto.HeaderProxyFromAddrs(1, nil, nil),
		proxyproto.HeaderProxyFromAddrs(2, src, src),
		proxyproto.HeaderProxyFromAddrs(2, src6, src6),
		proxyproto.HeaderProxyFromAddrs(2, nil, nil),
	} {
		b, err := h.Format()
		require.NoError(f, err)
		f.Add(append(b, "payload"...))
	}
	f.Add(kndRecord(f, &tls.Config{ServerName: "h"}))
	f.Add(kndHello(0))
	f.Add(kndHello(1<<14 + 1))
	f.Add([]byte(kndSignature1 + strings.Repeat("x", 107)))
	f.Add([]byte("PROXY\r\nPROXY TCP4 \n"))
	f.Add([]byte("PROXY UNKNOWN HTTP/1.1\r\nHost: h\r\n\r\n"))
	f.Add([]byte("PROXY / a HTTP/1.1\r\n"))
	f.Add([]byte("PROXY /" + strings.Repeat("x", 107)))
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := slices.Clone(b)
		kndLayer(t, b, wire.ProxyHeader, len(kndSignature2), []string{kndSignature1 + "\n", kndHeader2(0)})
		kndLayer(t, b, wire.ClientHello, 6, []string{string(kndHello(1)), string(kndHello(1 << 14))})
		require.Equal(t, kept, b, "the bytes were modified")

		// What the PROXY protocol's own parser accepts is as long as we say, unless
		// it is a request. Its buffer is the whole of b, as it gives up where that ends.
		whole := bytes.NewReader(b)
		r := bufio.NewReaderSize(whole, len(b)+1)
		if _, err := proxyproto.Read(r); err == nil {
			m, n := wire.ProxyHeader(b)
			var s wire.Sniffer
			if s.Next(b) == wire.HTTP && !s.BehindHeader() {
				require.Equal(t, wire.No, m)
				return
			}
			require.Equal(t, wire.Yes, m)
			require.Equal(t, len(b)-whole.Len()-r.Buffered(), n)
		}
	})
}

// kndLayer checks one function on every beginning of b. Its answer is due after
// most bytes at the latest; a Maybe can become one of examples.
func kndLayer(t *testing.T, b []byte, begins func([]byte) (wire.Match, int), most int, examples []string) {
	t.Helper()
	last, length := wire.Maybe, 0
	for i := range min(len(b), 200) + 1 {
		at := fmt.Sprintf("%q", b[:i])
		m, n := begins(b[:i])
		if late := last == wire.Yes && m == wire.No && length == 0 && bytes.HasPrefix(b, []byte(kndSignature1)); late {
			var s wire.Sniffer // a request line, as shows late
			require.True(t, s.Next(b[:i]) == wire.HTTP || s.AtLimit() == wire.HTTP, at)
		} else if last != wire.Maybe {
			require.Equal(t, last, m, "%s changes the answer", at)
		}
		if m == wire.Maybe {
			require.Less(t, i, most, at)
			require.True(t, slices.ContainsFunc(examples, func(e string) bool {
				m, _ := begins(append(slices.Clone(b[:i]), e[min(i, len(e)):]...))
				return m == wire.Yes
			}), "%s can become nothing", at)
		}
		if m != wire.Yes {
			require.Zero(t, n, at)
		}
		if length != 0 {
			require.Equal(t, length, n, "%s changes the length", at)
		}
		last, length = m, n
	}
	m, n := begins(b)
	if last != wire.Maybe {
		require.Equal(t, last, m)
	}
	if length != 0 {
		require.Equal(t, length, n)
	}
	if m == wire.Yes && n > 0 && n <= len(b) {
		alone, of := begins(b[:n])
		require.Equal(t, wire.Yes, alone)
		require.Equal(t, n, of, "what follows a layer has no say in it")
	}
}
