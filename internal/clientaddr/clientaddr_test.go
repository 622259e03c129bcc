package clientaddr

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// addrTCP is the peer at an address, as net.Conn.RemoteAddr returns it.
func addrTCP(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// addrOther is an address of a type that the package does not know.
type addrOther string

func (a addrOther) Network() string { return "other" }
func (a addrOther) String() string  { return string(a) }

var (
	addrPeer  = addrTCP("10.0.0.1:4000")
	addrLocal = &net.UnixAddr{Net: "unix", Name: "/run/edge.sock"}
)

// addrProxies trusts 10.0.0.0/8, 192.0.2.7 and two IPv6 networks.
func addrProxies(t testing.TB, field string) Proxies {
	t.Helper()
	p, err := New([]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("192.0.2.7/32"),
		netip.MustParsePrefix("2001:db8:a::/48"),
		netip.MustParsePrefix("fe80::/10"),
	}, field)
	require.NoError(t, err)
	return p
}

func TestNew(t *testing.T) {
	given := []netip.Prefix{
		netip.MustParsePrefix("10.9.8.7/8"),
		netip.MustParsePrefix("::ffff:172.16.5.5/108"),
		netip.MustParsePrefix("::ffff:198.51.100.1/128"),
		netip.MustParsePrefix("::ffff:0:0/96"),
		netip.MustParsePrefix("::ffff:0:0/95"),
		netip.MustParsePrefix("2001:db8:1::1/48"),
	}
	kept := slices.Clone(given)
	p, err := New(given, "")
	require.NoError(t, err)
	require.Equal(t, Proxies{field: "X-Forwarded-For", prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("198.51.100.1/32"),
		netip.MustParsePrefix("0.0.0.0/0"),
		netip.MustParsePrefix("::fffe:0:0/95"),
		netip.MustParsePrefix("2001:db8:1::/48"),
	}}, p)
	require.Equal(t, kept, given, "the caller's slice was modified")
	given[0] = netip.MustParsePrefix("203.0.113.0/24")
	require.Equal(t, netip.MustParsePrefix("10.0.0.0/8"), p.prefixes[0], "the caller's slice was kept")

	p, err = New(given, "X-Real-IP")
	require.NoError(t, err)
	require.Equal(t, "X-Real-IP", p.field)

	p, err = New(nil, "")
	require.NoError(t, err)
	require.Empty(t, p.prefixes)
}

func TestNewRefuses(t *testing.T) {
	good := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for name, c := range map[string]struct {
		prefixes []netip.Prefix
		field    string
		text     string
	}{
		"zero prefix":           {append(slices.Clone(good), netip.Prefix{}), "", "TrustedProxies[1] is an invalid netip.Prefix (zero, or with a length out of range); make one with netip.MustParsePrefix(\"10.0.0.0/8\")"},
		"too many bits":         {[]netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33)}, "", "TrustedProxies[0] is an invalid netip.Prefix (zero, or with a length out of range); make one with netip.MustParsePrefix(\"10.0.0.0/8\")"},
		"no field name":         {good, "X Forwarded", `ClientAddrHeader: "X Forwarded" is not a field name`},
		"colon":                 {good, "Forwarded:", `ClientAddrHeader: "Forwarded:" is not a field name`},
		"field without proxies": {nil, "Forwarded", "ClientAddrHeader has no effect without TrustedProxies"},
		"empty, not nil":        {[]netip.Prefix{}, "X-Forwarded-For", "ClientAddrHeader has no effect without TrustedProxies"},
		"both, name first":      {nil, "é", `ClientAddrHeader: "é" is not a field name`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(c.prefixes, c.field)
			require.EqualError(t, err, c.text)
			require.Zero(t, p)
		})
	}
}

func TestTrusts(t *testing.T) {
	p := addrProxies(t, "")
	mapped, err := New([]netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}, "")
	require.NoError(t, err)
	v6, err := New([]netip.Prefix{netip.MustParsePrefix("::/0")}, "")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		p    Proxies
		addr net.Addr
		want bool
	}{
		"first of the prefix":      {p, addrTCP("10.0.0.0:1"), true},
		"last of the prefix":       {p, addrTCP("10.255.255.255:1"), true},
		"beyond the prefix":        {p, addrTCP("11.0.0.0:1"), false},
		"second prefix":            {p, addrTCP("192.0.2.7:1"), true},
		"16 bytes":                 {p, &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3)}, true},
		"4 bytes":                  {p, &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3).To4()}, true},
		"mapped peer":              {p, addrTCP("[::ffff:10.1.2.3]:1"), true},
		"mapped stranger":          {p, addrTCP("[::ffff:11.1.2.3]:1"), false},
		"mapped prefix":            {mapped, addrTCP("10.1.2.3:1"), true},
		"mapped prefix and peer":   {mapped, addrTCP("[::ffff:10.1.2.3]:1"), true},
		"mapped prefix, stranger":  {mapped, addrTCP("11.1.2.3:1"), false},
		"IPv6":                     {p, addrTCP("[2001:db8:a::1]:1"), true},
		"IPv6 stranger":            {p, addrTCP("[2001:db8:b::1]:1"), false},
		"IPv4 is not IPv6":         {v6, addrTCP("10.0.0.1:1"), false},
		"zone":                     {p, addrTCP("[fe80::1%eth0]:1"), true},
		"mapped with a zone":       {p, &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Zone: "eth0"}, true},
		"no IP":                    {p, &net.TCPAddr{Port: 1}, false},
		"no address":               {p, nil, false},
		"nil TCP address":          {p, (*net.TCPAddr)(nil), false},
		"Unix socket":              {p, addrLocal, true},
		"Unix socket without name": {p, &net.UnixAddr{Net: "unix"}, true},
		"nil Unix address":         {p, (*net.UnixAddr)(nil), false},
		"other type":               {p, addrOther("10.0.0.1:80"), true},
		"other type, mapped":       {p, addrOther("[::ffff:10.0.0.1]:80"), true},
		"other type, zone":         {p, addrOther("[fe80::1%eth0]:80"), true},
		"other type, stranger":     {p, addrOther("11.0.0.1:80"), false},
		"other type, no port":      {p, addrOther("10.0.0.1"), false},
		"pipe":                     {p, addrOther("pipe"), false},
		"UDP":                      {p, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, true},
		"nobody: TCP":              {Proxies{}, addrPeer, false},
		"nobody: Unix":             {Proxies{}, addrLocal, false},
		"nobody: other":            {Proxies{}, addrOther("10.0.0.1:80"), false},
		"no proxies: no address":   {Proxies{}, nil, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, c.p.trusts(c.addr)) })
	}
}

// addrConn is a connection with only a local address.
type addrConn struct {
	net.Conn
	local net.Addr
}

func (c addrConn) LocalAddr() net.Addr { return c.local }

func TestTrustsPeer(t *testing.T) {
	p := addrProxies(t, "")
	client := &net.UnixAddr{Net: "unix"}
	for name, c := range map[string]struct {
		local, peer net.Addr
		want        bool
	}{
		"trusted address":      {addrTCP("10.0.0.9:1"), addrPeer, true},
		"untrusted address":    {addrTCP("10.0.0.9:1"), addrTCP("203.0.113.9:1"), false},
		"socket with a file":   {addrLocal, client, true},
		"abstract socket":      {&net.UnixAddr{Net: "unix", Name: "@edge"}, client, false},
		"socket without name":  {&net.UnixAddr{Net: "unix"}, client, false},
		"nil local address":    {(*net.UnixAddr)(nil), client, false},
		"no local address":     {nil, client, false},
		"address behind it":    {&net.UnixAddr{Net: "unix", Name: "@edge"}, addrPeer, true},
		"other local address":  {addrTCP("10.0.0.9:1"), client, false},
		"nil Unix peer":        {addrLocal, (*net.UnixAddr)(nil), false},
		"no address of a peer": {addrLocal, nil, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, p.TrustsPeer(addrConn{local: c.local}, c.peer)) })
	}
	nobody, err := New(nil, "")
	require.NoError(t, err)
	require.False(t, nobody.TrustsPeer(addrConn{local: addrLocal}, client))
	require.False(t, nobody.Any())
	require.True(t, p.Any())
	require.Equal(t, DefaultField, p.Field())
}

func TestUntrustedPeerCostsNothing(t *testing.T) {
	p := addrProxies(t, "")
	var stranger net.Addr = addrTCP("203.0.113.9:1")
	lines := []string{"192.0.2.1"}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := p.Client(stranger, lines); err != nil {
			t.Fatal(err)
		}
	}))
	var peer net.Addr = addrPeer
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if !p.trusts(peer) {
			t.Fatal("the peer is not trusted")
		}
	}))
}

func TestClient(t *testing.T) {
	hops := strings.Repeat(", 10.0.0.2", 31)
	forwardedHops := strings.Repeat(", for=10.0.0.2;proto=http", 31)
	for name, c := range map[string]struct {
		field string
		peer  net.Addr // addrPeer if nil
		lines []string
		want  string // empty: the peer itself
	}{
		"one hop":            {lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
		"two hops":           {lines: []string{"203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
		"no space":           {lines: []string{"203.0.113.9,10.0.0.2"}, want: "203.0.113.9:0"},
		"tabs and spaces":    {lines: []string{"\t 203.0.113.9 \t,\t10.0.0.2 "}, want: "203.0.113.9:0"},
		"32 hops":            {lines: []string{"203.0.113.9" + hops}, want: "203.0.113.9:0"},
		"32 lines":           {lines: append([]string{"203.0.113.9"}, slices.Repeat([]string{"10.0.0.2"}, 31)...), want: "203.0.113.9:0"},
		"name in lower case": {field: "x-forwarded-for", lines: []string{"203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
		"name in mixed case": {field: "x-ForWarded-FOR", lines: []string{"203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
		"all are trusted":    {lines: []string{"10.0.0.4, 10.0.0.3:7, 10.0.0.2"}, want: "10.0.0.4:0"},
		"no line":            {},
		"empty line":         {lines: []string{""}},
		"nothing but commas": {lines: []string{" ,\t, ", ","}},
		"empty elements":     {lines: []string{",, 203.0.113.9,, ,10.0.0.2, ,"}, want: "203.0.113.9:0"},
		"empty last line":    {lines: []string{"203.0.113.9", ""}, want: "203.0.113.9:0"},
		"two lines":          {lines: []string{"198.51.100.1, 203.0.113.9", "10.0.0.2"}, want: "203.0.113.9:0"},
		"three lines":        {lines: []string{"203.0.113.9", "10.0.0.3", "10.0.0.2"}, want: "203.0.113.9:0"},

		// The client can write everything beyond the first untrusted address.
		"spoofed":                        {lines: []string{"198.51.100.1, 203.0.113.9"}, want: "203.0.113.9:0"},
		"spoofed as trusted":             {lines: []string{"10.0.0.9, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
		"spoofed as unknown":             {lines: []string{"unknown, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
		"garbage on the left":            {lines: []string{"\"<script>:[::, 1.2.3.4.5, 203.0.113.9, 10.0.0.2"}, want: "203.0.113.9:0"},
		"garbage on a line to the left":  {lines: []string{"<script>", "203.0.113.9"}, want: "203.0.113.9:0"},
		"garbage to the left of unknown": {lines: []string{"<script>, unknown, 10.0.0.2"}, want: "10.0.0.2:0"},

		"stranger":               {peer: addrTCP("203.0.113.9:1"), lines: []string{"10.0.0.2"}},
		"stranger with garbage":  {peer: addrTCP("203.0.113.9:1"), lines: []string{"<script>", "<script>"}},
		"no peer":                {peer: addrOther("pipe"), lines: []string{"198.51.100.1"}},
		"Unix socket":            {peer: addrLocal, lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
		"Unix socket, no line":   {peer: addrLocal},
		"other peer":             {peer: addrOther("10.0.0.1:80"), lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
		"mapped peer":            {peer: addrTCP("[::ffff:10.0.0.1]:1"), lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
		"mapped peer, no line":   {peer: addrTCP("[::ffff:10.0.0.1]:1")},
		"peer with a zone":       {peer: addrTCP("[fe80::1%eth0]:1"), lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
		"stranger with a zone":   {peer: addrTCP("[fec0::1%eth0]:1"), lines: []string{"203.0.113.9"}},
		"hop with a zone":        {lines: []string{"203.0.113.9, fe80::2%eth1"}, want: "203.0.113.9:0"},
		"client with a zone":     {lines: []string{"fec0::2%eth1"}, want: "[fec0::2]:0"},
		"mapped hop":             {lines: []string{"203.0.113.9, ::ffff:10.0.0.2"}, want: "203.0.113.9:0"},
		"mapped client":          {lines: []string{"[::ffff:203.0.113.9]:5"}, want: "203.0.113.9:5"},
		"IPv4 with a port":       {lines: []string{"203.0.113.9:65535, 10.0.0.2:1"}, want: "203.0.113.9:65535"},
		"port 0":                 {lines: []string{"203.0.113.9:0"}, want: "203.0.113.9:0"},
		"IPv6":                   {lines: []string{"2001:DB8::1, 2001:db8:a::2"}, want: "[2001:db8::1]:0"},
		"IPv6 ends like a port":  {lines: []string{"2001:db8::1:80"}, want: "[2001:db8::1:80]:0"},
		"unspecified":            {lines: []string{"::"}, want: "[::]:0"},
		"IPv6 in brackets":       {lines: []string{"[2001:db8::1], [2001:db8:a::2]"}, want: "[2001:db8::1]:0"},
		"IPv6 with a port":       {lines: []string{"[2001:db8::1]:80, [2001:db8:a::2]:81"}, want: "[2001:db8::1]:80"},
		"port is obfuscated":     {lines: []string{"203.0.113.9:_p.1"}, want: "203.0.113.9:0"},
		"unknown":                {lines: []string{"198.51.100.1, unknown"}},
		"unknown in upper case":  {lines: []string{"198.51.100.1, UNKNOWN, 10.0.0.2:7"}, want: "10.0.0.2:7"},
		"unknown with a port":    {lines: []string{"198.51.100.1, unknown:80, 10.0.0.2"}, want: "10.0.0.2:0"},
		"obfuscated":             {lines: []string{"198.51.100.1, _Az09.-_, 10.0.0.2"}, want: "10.0.0.2:0"},
		"obfuscated with a port": {lines: []string{"198.51.100.1, _x:_y"}},
		"unknown line":           {lines: []string{"198.51.100.1", "unknown", "10.0.0.2"}, want: "10.0.0.2:0"},

		"Forwarded":                  {field: "Forwarded", lines: []string{"for=203.0.113.9"}, want: "203.0.113.9:0"},
		"Forwarded, two hops":        {field: "Forwarded", lines: []string{"for=203.0.113.9, for=10.0.0.2"}, want: "203.0.113.9:0"},
		"Forwarded, 32 hops":         {field: "Forwarded", lines: []string{"for=203.0.113.9" + forwardedHops}, want: "203.0.113.9:0"},
		"Forwarded, all parameters":  {field: "Forwarded", lines: []string{`by=10.0.0.2;for=203.0.113.9;host="h:80";proto=https;x=""`}, want: "203.0.113.9:0"},
		"Forwarded, mixed case":      {field: "fOrwarDED", lines: []string{`Proto=HTTP;FOR="203.0.113.9:5"`}, want: "203.0.113.9:5"},
		"Forwarded, IPv6":            {field: "Forwarded", lines: []string{`for="[2001:db8::1]", For="[2001:db8:a::2]:81"`}, want: "[2001:db8::1]:0"},
		"Forwarded, IPv6 and port":   {field: "Forwarded", lines: []string{`for="[2001:db8::1]:4711"`}, want: "[2001:db8::1]:4711"},
		"Forwarded, mapped":          {field: "Forwarded", lines: []string{`for="[::ffff:203.0.113.9]"`}, want: "203.0.113.9:0"},
		"Forwarded, zone":            {field: "Forwarded", lines: []string{`for=203.0.113.9, for="[fe80::2%eth1]"`}, want: "203.0.113.9:0"},
		"Forwarded, port":            {field: "Forwarded", lines: []string{`for="203.0.113.9:80"`}, want: "203.0.113.9:80"},
		"Forwarded, quoted IPv4":     {field: "Forwarded", lines: []string{`for="203.0.113.9"`}, want: "203.0.113.9:0"},
		"Forwarded, quoted-pair":     {field: "Forwarded", lines: []string{`for="\2\03.0.113\.9\:8\0"`}, want: "203.0.113.9:80"},
		"Forwarded, escaped quote":   {field: "Forwarded", lines: []string{`x="\", for=198.51.100.1, \\";for=203.0.113.9`}, want: "203.0.113.9:0"},
		"Forwarded, quoted commas":   {field: "Forwarded", lines: []string{`for=203.0.113.9;x="a, for=198.51.100.1;b", for=10.0.0.2`}, want: "203.0.113.9:0"},
		"Forwarded, quoted for":      {field: "Forwarded", lines: []string{`x=";for=198.51.100.1";for=203.0.113.9`}, want: "203.0.113.9:0"},
		"Forwarded, unknown":         {field: "Forwarded", lines: []string{"for=198.51.100.1, for=Unknown"}},
		"Forwarded, unknown, port":   {field: "Forwarded", lines: []string{`for=198.51.100.1, for="unknown:_1", for=10.0.0.2`}, want: "10.0.0.2:0"},
		"Forwarded, obfuscated":      {field: "Forwarded", lines: []string{"for=198.51.100.1, for=_gazonk, for=10.0.0.2"}, want: "10.0.0.2:0"},
		"Forwarded, port obfuscated": {field: "Forwarded", lines: []string{`for="203.0.113.9:_x"`}, want: "203.0.113.9:0"},
		"Forwarded without for":      {field: "Forwarded", lines: []string{"for=198.51.100.1, by=10.0.0.2;proto=http, for=10.0.0.3"}, want: "10.0.0.3:0"},
		"Forwarded, no for at all":   {field: "Forwarded", lines: []string{"proto=https"}},
		"Forwarded, forx is not for": {field: "Forwarded", lines: []string{"forx=198.51.100.1"}},
		"Forwarded, empty element":   {field: "Forwarded", lines: []string{" ,, for=203.0.113.9 ,\t, for=10.0.0.2 ,"}, want: "203.0.113.9:0"},
		"Forwarded, empty pairs":     {field: "Forwarded", lines: []string{";for=203.0.113.9;;proto=http;, ;for=10.0.0.2; ,"}, want: "203.0.113.9:0"},
		"Forwarded, only semicolons": {field: "Forwarded", lines: []string{"for=198.51.100.1, ;;"}},
		"Forwarded, spaces":          {field: "Forwarded", lines: []string{"proto=http ; \tfor=203.0.113.9 ; by=_b , for=10.0.0.2"}, want: "203.0.113.9:0"},
		"Forwarded, two lines":       {field: "Forwarded", lines: []string{"for=198.51.100.1, for=203.0.113.9", "for=10.0.0.2"}, want: "203.0.113.9:0"},
		"Forwarded, three lines":     {field: "Forwarded", lines: []string{"for=203.0.113.9", "for=10.0.0.3", "for=10.0.0.2"}, want: "203.0.113.9:0"},
		"Forwarded, empty lines":     {field: "Forwarded", lines: []string{"", " "}},
		"Forwarded, spoofed":         {field: "Forwarded", lines: []string{"for=10.0.0.9, for=203.0.113.9"}, want: "203.0.113.9:0"},
		"Forwarded, bad nodes":       {field: "Forwarded", lines: []string{`for="<script>", for="1.2.3", for="::1", for=203.0.113.9`}, want: "203.0.113.9:0"},
		"Forwarded, quote on a line": {field: "Forwarded", lines: []string{`for="198.51.100.1`, "for=203.0.113.9"}, want: "203.0.113.9:0"},
		"Forwarded, line not judged": {field: "Forwarded", lines: []string{`for=for=for`, "for=unknown, for=10.0.0.2"}, want: "10.0.0.2:0"},
		"Forwarded, stranger":        {field: "Forwarded", peer: addrTCP("203.0.113.9:1"), lines: []string{`for="`}},

		"single":                {field: "X-Real-IP", lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
		"single, spaces":        {field: "x-real-ip", lines: []string{" \t203.0.113.9\t"}, want: "203.0.113.9:0"},
		"single, trusted":       {field: "CF-Connecting-IP", lines: []string{"10.0.0.2"}, want: "10.0.0.2:0"},
		"single, port":          {field: "X-Real-IP", lines: []string{"203.0.113.9:80"}, want: "203.0.113.9:80"},
		"single, IPv6":          {field: "CF-Connecting-IP", lines: []string{"2001:db8::1"}, want: "[2001:db8::1]:0"},
		"single, IPv6 and port": {field: "CF-Connecting-IP", lines: []string{"[2001:db8::1]:80"}, want: "[2001:db8::1]:80"},
		"single, unknown":       {field: "X-Real-IP", lines: []string{"unknown"}},
		"single, obfuscated":    {field: "X-Real-IP", lines: []string{"_hidden"}},
		"single, empty":         {field: "X-Real-IP", lines: []string{" "}},
		"single, no line":       {field: "X-Real-IP"},
		"single, stranger":      {field: "X-Real-IP", peer: addrTCP("203.0.113.9:1"), lines: []string{"10.0.0.2", "10.0.0.3"}},
		"any field":             {field: "X-Client", lines: []string{"203.0.113.9"}, want: "203.0.113.9:0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := addrProxies(t, c.field)
			peer := c.peer
			if peer == nil {
				peer = addrPeer
			}
			got, err := p.Client(peer, c.lines)
			require.NoError(t, err)
			if c.want == "" {
				require.True(t, got == peer, "%v is not the peer itself", got)
				return
			}
			require.Equal(t, addrTCP(c.want), got)
		})
	}

	t.Run("no proxy is trusted", func(t *testing.T) {
		p, err := New(nil, "")
		require.NoError(t, err)
		got, err := p.Client(addrLocal, []string{"203.0.113.9"})
		require.NoError(t, err)
		require.True(t, got == net.Addr(addrLocal))
	})
	t.Run("nil trusts no proxy", func(t *testing.T) {
		p := addrProxies(t, "")
		got, err := p.Client(nil, []string{"203.0.113.9"})
		require.NoError(t, err)
		require.Nil(t, got)
	})
}

func TestClientRefuses(t *testing.T) {
	const (
		address  = "an address is malformed: RFC 7239 §6"
		port     = "a port is malformed or out of range: RFC 7239 §6"
		many     = "it holds more than one address"
		noEnd    = "a quoted string has no end: RFC 7239 §4"
		noValue  = "a value is neither a token nor a quoted string: RFC 7239 §4"
		noToken  = "the name of a parameter is not a token: RFC 7239 §4"
		trailing = "a value does not end where it should: RFC 7239 §4"
		twice    = "an element has two for parameters: RFC 7239 §4"
	)
	for field, cases := range map[string]map[string]string{
		"X-Forwarded-For": {
			"example.com":             address,
			"203.0.113":               address,
			"203.0.113.09":            address,
			"203.0.113.256":           address,
			"203.0.113.9%eth0":        address,
			"203.0.113.9, 10.0.0.2 ;": address,
			"203.0.113.9 10.0.0.2":    address,
			"[203.0.113.9]":           address,
			"[203.0.113.9]:80":        address,
			"203.0.113.9]":            address,
			"[2001:db8::1":            address,
			"[[2001:db8::1]]":         port,
			"2001:db8::1]":            address,
			"[]":                      address,
			"[unknown]":               address,
			"[_x]":                    address,
			":80":                     address,
			"2001:db8::g":             address,
			"fe80::1%":                address,
			"[2001:db8::1]80":         port,
			"[2001:db8::1]:":          port,
			"[2001:db8::1]:65536":     port,
			"[2001:db8::1]:_":         port,
			"[2001:db8::1]_x":         port,
			"203.0.113.9:":            port,
			"203.0.113.9:65536":       port,
			"203.0.113.9:-1":          port,
			"203.0.113.9:+1":          port,
			"203.0.113.9:x":           port,
			"203.0.113.9:_":           port,
			"203.0.113.9:_a$":         port,
			"unknown:99999":           port,
			"_":                       address,
			"_a b":                    address,
			"_ä":                      address,
			"unknownx":                address,
			"for=203.0.113.9":         address,
			`"203.0.113.9"`:           address,
			"unix:":                   port,
			// A trusted hop does not hide a bad one to its left.
			"198.51.100.1, bad, 10.0.0.2": address,
		},
		"forwarded": {
			"203.0.113.9":                             noValue,
			"for":                                     noValue,
			"for=":                                    noValue,
			"for=;proto=http":                         noValue,
			"for=, for=10.0.0.2":                      noValue,
			"for= 203.0.113.9":                        noValue,
			"for=[::1]":                               noValue,
			"for=é":                                   noValue,
			"=203.0.113.9":                            noToken,
			"for =203.0.113.9":                        noToken,
			`"for"=203.0.113.9`:                       noToken,
			"203.0.113.9, for=10.0.0.2":               noToken,
			"for=203.0.113.9 proto=http":              trailing,
			"for=203.0.113.9:80":                      trailing,
			"for=203.0.113.9=1":                       trailing,
			`for="203.0.113.9"x`:                      trailing,
			`for="203.0.113.9""`:                      trailing,
			`for=x"203.0.113.9"`:                      trailing,
			`for="203.0.113.9`:                        noEnd,
			`for="203.0.113.9\"`:                      noEnd,
			`for="203.0.113.9\`:                       noEnd,
			`for="`:                                   noEnd,
			"for=10.0.0.2;for=203.0.113.9":            twice,
			"for=10.0.0.2;proto=http;FOR=_x":          twice,
			`for="";for=203.0.113.9`:                  twice,
			"for=unknown;for=203.0.113.9":             twice,
			`for=""`:                                  address,
			`for="::1"`:                               address,
			`for="2001:db8::1:80"`:                    address,
			`for="2001:db8::1"`:                       address,
			`for=" 203.0.113.9"`:                      address,
			`for="[203.0.113.9]"`:                     address,
			`for="[2001:db8::1"`:                      address,
			`for=example.com`:                         address,
			`for=_`:                                   address,
			`for="_a b"`:                              address,
			`for="203.0.113.9:65536"`:                 port,
			`for="[2001:db8::1]:"`:                    port,
			`for="[2001:db8::1]:65536"`:               port,
			`for="unknown:65536"`:                     port,
			"for=198.51.100.1, for=bad, for=10.0.0.2": address,
			// The client's opening quote swallows what the proxy appends.
			`for="198.51.100.1, for=203.0.113.9`:                   noEnd,
			`for="198.51.100.1, for="203.0.113.9:80"`:              trailing,
			`for=198.51.100.1;x=", for="[2001:db8::1]";proto=http`: trailing,
			`for=198.51.100.1;x="\, for="[2001:db8::1]"`:           trailing,
			`for=198.51.100.1;x=", for=203.0.113.9;host=""`:        trailing,
			// ... and continues with a Host of the client's choice.
			`x="1, for=203.0.113.9;host=",for=198.51.100.1;y="`:   noEnd,
			`x="1, for=203.0.113.9;host=",for=198.51.100.1;y=\""`: noValue,
			// The syntax of the whole line is checked, not only of the part
			// that is used.
			`"<script>", for=203.0.113.9`:  noToken,
			`for=1;for=2, for=203.0.113.9`: twice,
		},
		"X-Real-IP": {
			"203.0.113.9, 10.0.0.2": many,
			"203.0.113.9,":          many,
			",":                     many,
			"for=203.0.113.9":       address,
			"203.0.113.9:65536":     port,
		},
	} {
		for line, text := range cases {
			t.Run(field+" "+line, func(t *testing.T) {
				p := addrProxies(t, field)
				got, err := p.Client(addrPeer, []string{line})
				require.EqualError(t, err, "the field "+field+" of a trusted proxy is malformed: "+text)
				require.Nil(t, got)
			})
		}
	}
	for name, c := range map[string]struct {
		field, text string
		lines       []string
	}{
		"two lines of one address":   {"X-Real-IP", many, []string{"203.0.113.9", "203.0.113.9"}},
		"an empty line beside it":    {"CF-Connecting-IP", many, []string{"203.0.113.9", ""}},
		"a line that is reached":     {"X-Forwarded-For", address, []string{"bad", "10.0.0.2"}},
		"quote on a line reached":    {"Forwarded", noEnd, []string{`for="203.0.113.9`, "for=10.0.0.2"}},
		"quote over two lines":       {"Forwarded", noToken, []string{`for="203.0.113.9`, `";for=10.0.0.2`}},
		"last line, all else proper": {"Forwarded", twice, []string{"for=203.0.113.9", "for=10.0.0.2;for=10.0.0.3"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := addrProxies(t, c.field)
			got, err := p.Client(addrPeer, c.lines)
			require.EqualError(t, err, "the field "+c.field+" of a trusted proxy is malformed: "+c.text)
			require.Nil(t, got)
		})
	}
}

func FuzzClient(f *testing.F) {
	for field, lines := range [][]string{
		{"203.0.113.9:80, 10.0.0.2, [2001:db8:a::1]:5, unknown", "198.51.100.1, [2001:db8::1]:5, 10.0.0.2"},
		{`for="[2001:db8::1]:5";proto=http;host="h\"", for=203.0.113.9 , for=10.0.0.2`, "for=203.0.113.9;proto=http"},
		{"203.0.113.9"},
	} {
		for _, line := range lines {
			for _, junk := range []string{"", "198.51.100.1", "unknown, 10.0.0.9", `for="`, `x="`, `x="\`, "for=10.0.0.9;"} {
				f.Add(uint8(field), junk, line)
			}
		}
	}
	f.Fuzz(func(t *testing.T, field uint8, junk, line string) {
		name := []string{"X-Forwarded-For", "Forwarded", "X-Real-IP"}[field%3]
		p := addrProxies(t, name)
		stranger := addrTCP("203.0.113.9:1")
		got, err := p.Client(stranger, []string{junk, line})
		require.NoError(t, err)
		require.True(t, got == net.Addr(stranger), "a peer that is not trusted became %v", got)

		got, err = p.Client(addrPeer, []string{line})
		if err != nil {
			require.Nil(t, got)
			return
		}
		if got == net.Addr(addrPeer) {
			return
		}
		tcp := got.(*net.TCPAddr)
		ip, ok := netip.AddrFromSlice(tcp.IP)
		require.True(t, ok && !ip.Is4In6() && tcp.Zone == "", "%#v is not plain", tcp)
		if p.trusts(got) || name == "X-Real-IP" {
			return
		}
		// The client cannot pretend to be another one with anything that it
		// sends first.
		ahead, err := p.Client(addrPeer, []string{junk, line})
		require.NoError(t, err)
		require.Equal(t, got, ahead)
		ahead, err = p.Client(addrPeer, []string{junk + ", " + line})
		if name == "Forwarded" && err != nil {
			return // a quote or an escape that junk opens does not end before line
		}
		require.NoError(t, err)
		require.Equal(t, got, ahead)
	})
}
