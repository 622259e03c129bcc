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
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// proxyHeader2 returns the beginning of a PROXY header of version 2 that has
// length more bytes.
func proxyHeader2(length int) string {
	return signature2 + "\x21\x11" + string(binary.BigEndian.AppendUint16(nil, uint16(length)))
}

// TestProxyHeader calls ProxyHeader with every prefix of a header, and with
// data after it.
func TestProxyHeader(t *testing.T) {
	endless := signature1 + strings.Repeat("x", 200)
	for name, test := range map[string]struct {
		b         string
		signature string
		known     int // the number of bytes that show the length
		n         int
	}{
		"v1":                       {"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", signature1, 42, 42},
		"v1 without an address":    {"PROXY UNKNOWN\r\n", signature1, 15, 15},
		"v1, bare LF":              {"PROXY TCP4\n", signature1, 11, 11},
		"v1, empty":                {"PROXY \n", signature1, 7, 7},
		"v1, CR is no end":         {"PROXY \r\r \r\n", signature1, 11, 11},
		"v1 of the maximum length": {endless[:106] + "\n", signature1, 107, 107},
		"v1, a byte too long":      {endless[:107] + "\n", signature1, 107, -1},
		"v1 without end":           {endless, signature1, 107, -1},
		"v2, empty":                {proxyHeader2(0), signature2, 16, 16},
		"v2":                       {proxyHeader2(12) + "\xc0\x00\x02\x01\xc0\x00\x02\x02\xdc\x04\x01\xbb", signature2, 16, 28},
		"v2, both length bytes":    {proxyHeader2(0x0102) + strings.Repeat("x", 0x0102), signature2, 16, 16 + 0x0102},
		"v2 of the maximum length": {proxyHeader2(0xffff), signature2, 16, 16 + 0xffff},
		"v2, an unknown version":   {signature2 + "\xff\xff\x00\x04last", signature2, 16, 20},
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

// TestProxyHeaderIsNoRequest calls ProxyHeader with every prefix of a request
// line whose method is PROXY. No result may contain the length of a header.
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
		for i := len(signature1); i <= len(b); i++ {
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
	for _, signature := range []string{signature1, signature2} {
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

// clientHelloRecord returns a record with a ClientHello of length bytes.
func clientHelloRecord(length int) []byte {
	b := binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(length))
	return append(b, 1, 0, 0, 0, 3, 3)
}

func TestClientHello(t *testing.T) {
	for _, length := range []int{1, 2, 4, 255, 256, 517, 1 << 14} {
		b := clientHelloRecord(length)
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
// index of the byte that excludes a ClientHello. A client of another protocol
// may wait for an answer right after that byte.
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
				b := clientHelloRecord(512)
				b[i] = byte(c)
				tests = append(tests, contradiction{i, b})
			}
		}
	}
	for _, length := range []int{0, 1<<14 + 1, 1<<14 + 255} {
		tests = append(tests, contradiction{4, clientHelloRecord(length)})
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

// TestClientHelloOfCryptoTLS uses the bytes of a real client.
func TestClientHelloOfCryptoTLS(t *testing.T) {
	for _, config := range []*tls.Config{
		{ServerName: "example.com"},
		{ServerName: "example.com", MaxVersion: tls.VersionTLS12},
		{ServerName: "example.com", NextProtos: []string{"h2", strings.Repeat("long", 60)}},
	} {
		b := firstRecord(t, config)
		m, n := wire.ClientHello(b)
		require.Equal(t, wire.Yes, m)
		require.Equal(t, len(b), n)
	}
}

// firstRecord returns the first record of a TLS client.
func firstRecord(t testing.TB, config *tls.Config) []byte {
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

// FuzzLayers checks both functions. More bytes never change a result, except
// for a header that turns out to be a request line. A Maybe can still become a
// Yes. A length covers only the layer.
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
	f.Add(firstRecord(f, &tls.Config{ServerName: "h"}))
	f.Add(clientHelloRecord(0))
	f.Add(clientHelloRecord(1<<14 + 1))
	f.Add([]byte(signature1 + strings.Repeat("x", 107)))
	f.Add([]byte("PROXY\r\nPROXY TCP4 \n"))
	f.Add([]byte("PROXY UNKNOWN HTTP/1.1\r\nHost: h\r\n\r\n"))
	f.Add([]byte("PROXY / a HTTP/1.1\r\n"))
	f.Add([]byte("PROXY /" + strings.Repeat("x", 107)))
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := slices.Clone(b)
		checkLayer(t, b, wire.ProxyHeader, len(signature2), []string{signature1 + "\n", proxyHeader2(0)})
		checkLayer(t, b, wire.ClientHello, 6, []string{string(clientHelloRecord(1)), string(clientHelloRecord(1 << 14))})
		require.Equal(t, kept, b, "the bytes were modified")

		// The parser of go-proxyproto returns the same length for the headers
		// that it accepts, unless they are requests. Its buffer is all of b,
		// because it gives up at the end of the buffer.
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

// checkLayer checks one function with every prefix of b. Its result is final
// after at most most bytes. A Maybe can become one of examples.
func checkLayer(t *testing.T, b []byte, begins func([]byte) (wire.Match, int), most int, examples []string) {
	t.Helper()
	last, length := wire.Maybe, 0
	for i := range min(len(b), 200) + 1 {
		at := fmt.Sprintf("%q", b[:i])
		m, n := begins(b[:i])
		if late := last == wire.Yes && m == wire.No && length == 0 && bytes.HasPrefix(b, []byte(signature1)); late {
			var s wire.Sniffer // the line turns out to be a request
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
		require.Equal(t, n, of, "the bytes after a layer do not matter")
	}
}
