package url_test

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/stretchr/testify/require"
)

var byWebSocket = []preflight.Carrier{preflight.CarrierWebSocket}

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]preflight.Target{
		"tcp://host:9007": {Address: "host:9007", Path: "/"},
		"tcp://host:9007/user/can/put/path/here/amps/json?http_preflight=true": {
			Address: "host:9007", Path: "/user/can/put/path/here/amps/json", Preflight: true,
		},
		// The examples of AMPS use this form.
		"tcps://localhost:443/amps/json?&http_preflight=true": {Address: "localhost:443", Path: "/amps/json", TLS: true, Preflight: true},
		"tcps://localhost:443/amps/json?&&http_preflight=1&":  {Address: "localhost:443", Path: "/amps/json", TLS: true, Preflight: true},
		"tcp://host:1?http_preflight=1":                       {Address: "host:1", Path: "/", Preflight: true},
		"TCP://host:1/?http_preflight=false":                  {Address: "host:1", Path: "/"},
		"tcp://host:1/?http_preflight=0":                      {Address: "host:1", Path: "/"},
		"tcp://host:1/?http%5Fpreflight=tr%75e":               {Address: "host:1", Path: "/", Preflight: true},
		"tcp://host:65535/a%2Fb/%c3%a9/;p=1,2/..//x":          {Address: "host:65535", Path: "/a%2Fb/%c3%a9/;p=1,2/..//x"},
		// The path is not decoded: %2F is not a "/". Bytes that need it are
		// encoded.
		"tcp://host:1/a%2Fb c/%41é":                   {Address: "host:1", Path: "/a%2Fb%20c/%41%C3%A9"},
		`tcp://host:1/a%2Fb|"<c>`:                     {Address: "host:1", Path: "/a%2Fb%7C%22%3Cc%3E"},
		"tcp://host:1/a b/é":                          {Address: "host:1", Path: "/a%20b/%C3%A9"},
		"tcp://host:1//x":                             {Address: "host:1", Path: "//x"},
		"tcp://192.0.2.1:1/":                          {Address: "192.0.2.1:1", Path: "/"},
		"tcps://[2001:db8::1]:443/p":                  {Address: "[2001:db8::1]:443", Path: "/p", TLS: true},
		"tcp://[fe80::1%25eth0]:1/":                   {Address: "[fe80::1%eth0]:1", Path: "/"},
		"tcp://user@host:1/":                          {Address: "host:1", Path: "/", User: url.User("user")},
		"tcp://user:p%40ss%3Aw%2Frd@host:1/":          {Address: "host:1", Path: "/", User: url.UserPassword("user", "p@ss:w/rd")},
		"tcp://:pw@host:1/":                           {Address: "host:1", Path: "/", User: url.UserPassword("", "pw")},
		"tcp://host:1/?tcp_nodelay=true":              {Address: "host:1", Path: "/", NoDelay: new(true)},
		"tcp://host:1/?tcp_nodelay=0&tcp_keepalive=1": {Address: "host:1", Path: "/", NoDelay: new(false), KeepAlive: new(true)},
		"tcp://host:1/?tcp_keepalive=false":           {Address: "host:1", Path: "/", KeepAlive: new(false)},
		"tcp://host:1/?tcp_sndbuf=65536&tcp_rcvbuf=1": {Address: "host:1", Path: "/", SendBuffer: 65536, ReceiveBuffer: 1},
		"tcp://host:1/?tcp_sndbuf=2147483647":         {Address: "host:1", Path: "/", SendBuffer: 1<<31 - 1},
		"tcp://host:1/?tcp_linger=0":                  {Address: "host:1", Path: "/", Linger: new(0)},
		"tcp://host:1/?tcp_linger=30":                 {Address: "host:1", Path: "/", Linger: new(30)},
		"tcp://host:1/?tcp_linger=-1":                 {Address: "host:1", Path: "/", Linger: new(-1)},
		"tcp://host:1/?tcp_connecttimeout=0":          {Address: "host:1", Path: "/"},
		"tcp://host:1/?tcp_connecttimeout=1500":       {Address: "host:1", Path: "/", ConnectTimeout: 1500 * time.Millisecond},
		"tcp://host:1/?tcp_connecttimeout=2147483647": {Address: "host:1", Path: "/", ConnectTimeout: (1<<31 - 1) * time.Millisecond},
		"tcps://host:1/?sni=a.example":                {Address: "host:1", Path: "/", TLS: true, ServerName: "a.example"},
		"tcps://host:1/?sni=B%C3%BCcher.example":      {Address: "host:1", Path: "/", TLS: true, ServerName: "xn--bcher-kva.example"},
		// Options of the application are kept and not checked.
		"tcp://host:1/?pretty=true":                          {Address: "host:1", Path: "/", Options: map[string]string{"pretty": "true"}},
		"tcp://host:1/?pretty=T&compression=zlib":            {Address: "host:1", Path: "/", Options: map[string]string{"pretty": "T", "compression": "zlib"}},
		"tcp://host:1/?tcp_idlereadtimeout=250&compression=": {Address: "host:1", Path: "/", Options: map[string]string{"tcp_idlereadtimeout": "250", "compression": ""}},
		// Host names are converted to the form of DNS.
		"tcp://bücher.example:1/":                                {Address: "xn--bcher-kva.example:1", Path: "/"},
		"tcp://B%C3%9CCHER。example:1/":                           {Address: "xn--bcher-kva.example:1", Path: "/"},
		"tcp://host:1/?bind=192.0.2.1":                           {Address: "host:1", Path: "/", Bind: netip.MustParseAddrPort("192.0.2.1:0")},
		"tcp://host:1/?bind=192.0.2.1:4000":                      {Address: "host:1", Path: "/", Bind: netip.MustParseAddrPort("192.0.2.1:4000")},
		"tcp://host:1/?bind=192.0.2.1%3A4000":                    {Address: "host:1", Path: "/", Bind: netip.MustParseAddrPort("192.0.2.1:4000")},
		"tcp://host:1/?bind=2001:db8::1":                         {Address: "host:1", Path: "/", Bind: netip.MustParseAddrPort("[2001:db8::1]:0")},
		"tcp://host:1/?bind=[2001:db8::1]":                       {Address: "host:1", Path: "/", Bind: netip.MustParseAddrPort("[2001:db8::1]:0")},
		"tcp://host:1/?bind=[2001:db8::1]:4000":                  {Address: "host:1", Path: "/", Bind: netip.MustParseAddrPort("[2001:db8::1]:4000")},
		"tcp://host:1/?ip_protocol_prefer=ipv4":                  {Address: "host:1", Path: "/", Prefer: "ipv4"},
		"tcp://host:1/?ip_protocol_prefer=ipv6&http_preflight=0": {Address: "host:1", Path: "/", Prefer: "ipv6"},
		// A WebSocket is always a tunnel, and has a default port.
		"ws://host/a%2Fb":        {Address: "host:80", Path: "/a%2Fb", Preflight: true, Carriers: byWebSocket},
		"WS://host:/":            {Address: "host:80", Path: "/", Preflight: true, Carriers: byWebSocket},
		"ws://user:pw@host:9007": {Address: "host:9007", Path: "/", Preflight: true, Carriers: byWebSocket, User: url.UserPassword("user", "pw")},
		"ws://[2001:db8::1]/":    {Address: "[2001:db8::1]:80", Path: "/", Preflight: true, Carriers: byWebSocket},
		"ws://[fe80::1%25eth0]/": {Address: "[fe80::1%eth0]:80", Path: "/", Preflight: true, Carriers: byWebSocket},
		"wss://bücher.example":   {Address: "xn--bcher-kva.example:443", Path: "/", TLS: true, Preflight: true, Carriers: byWebSocket},
		"wss://host:1/?sni=a&http_preflight=1&tcp_nodelay=0": {
			Address: "host:1", Path: "/", TLS: true, Preflight: true, Carriers: byWebSocket, ServerName: "a", NoDelay: new(false),
		},
	} {
		t.Run(raw, func(t *testing.T) {
			got, err := preflight.ParseURL(raw)
			require.NoError(t, err)
			require.Equal(t, &want, got)
		})
	}
}

func TestParseURLRefuses(t *testing.T) {
	const noScheme = "no scheme; the form is tcp://host:port/path?http_preflight=true, with tcps:// for TLS"
	for raw, text := range map[string]string{
		"":                       noScheme,
		"host":                   noScheme,
		"tcp":                    noScheme,
		"host:9007":              noScheme,
		"localhost:9007/amps":    noScheme,
		"192.0.2.1:9007/amps":    noScheme,
		"[::1]:9007/amps":        noScheme,
		"a_b.example:9007/amps":  noScheme,
		"//host:9007/":           noScheme,
		"/path?x=tcp://host:1/":  noScheme,
		"user:pw@host:9007/amps": noScheme,
		"://host:1/":             noScheme,
		" tcp://host:1/":         noScheme,
		"1tcp://host:1/":         noScheme,
		"http:host:1/":           noScheme,
		// The error names an unknown scheme or option.
		"http://host:1/":                            `unknown scheme "http"; tcp, tcps, ws and wss are known`,
		"ssl://host:1/":                             `unknown scheme "ssl"`,
		"tcpss://host:1/":                           `unknown scheme "tcpss"`,
		"tcp://host:1/?foo=1":                       `unknown option "foo"; known are http_preflight,`,
		"tcp://host:1/?foo":                         `unknown option "foo"`,
		"tcp://host:1/?=1":                          `unknown option ""`,
		"tcp://host:1/?Bind=::1":                    `unknown option "Bind"`,
		"tcp://host:1/?a=1&http_preflight=true&b=2": `unknown option "a"`,
		"tcp://host:1/?\x7f=1":                      "invalid control character",

		"ws://":                         "no host",
		"ws:///p":                       "no host",
		"wss://:443/":                   "no host",
		"ws:host/":                      "no scheme",
		"ws://host:x/":                  "invalid port",
		"ws://a_b|c/":                   "invalid character",
		"ws://host/?http_preflight=0":   "option http_preflight is off although the scheme is ws or wss",
		"wss://host/?http_preflight=no": "want true, false, 1 or 0",
		"ws://host/?sni=a.example":      `option sni="a.example": the scheme ws is without TLS; use wss`,
		"ws://me/s3cr3t@host/":          "an @ in the path of a URL without a user",
		"wsss://host/":                  `unknown scheme "wsss"`,

		"tcp:":              "no host",
		"tcp://":            "no host",
		"tcp:///path":       "no host",
		"tcp:host:1/path":   "no host",
		"tcp://:1/":         "no host",
		"tcp://user@:1/":    "no host",
		"tcp://host":        "no port",
		"tcp://host/path":   "no port",
		"tcp://host:/path":  "no port",
		"tcp://[::1]/":      "no port",
		"tcp://host:http/":  "invalid port",
		"tcp://host:-1/":    "invalid port",
		"tcp://host:65536/": `the port is not a number from 0 to 65535`,
		// The dialer does not get these: its error would only be "too many
		// colons".
		"tcp://::1:1/":            "",
		"tcp://host:1:1/":         "",
		"tcp://[::1:1/":           "missing ']' in host",
		"tcp://[::g]:1/":          "invalid host",
		"tcp://a b:1/":            "invalid character",
		"tcp://host:1/%zz":        "invalid URL escape",
		"tcp://host:1/\x00":       "invalid control character",
		"tcp://host:1/a\nb":       "invalid control character",
		"tcp://host:1/p#fragment": "a fragment (#) means nothing here",

		"tcp://host:1/?http_preflight=true;tcp_nodelay=true":    "options: invalid semicolon",
		"tcp://host:1/?http_preflight=%zz":                      "options: invalid URL escape",
		"tcp://host:1/?http_preflight=true&http_preflight=true": "option http_preflight is given twice",
		"tcp://host:1/?tcp_linger=1&tcp_linger=2":               "option tcp_linger is given twice",
		"tcp://host:1/?http_preflight":                          `option http_preflight="": want true, false, 1 or 0`,
		"tcp://host:1/?http_preflight=True":                     `option http_preflight="True": want true, false, 1 or 0`,
		"tcp://host:1/?tcp_nodelay=yes":                         `option tcp_nodelay="yes": want true, false, 1 or 0`,
		"tcp://host:1/?tcp_keepalive=2":                         `option tcp_keepalive="2": want true, false, 1 or 0`,
		"tcp://host:1/?tcp_sndbuf=0":                            `option tcp_sndbuf="0": want a number from 1 to 2147483647`,
		"tcp://host:1/?tcp_rcvbuf=-1":                           `option tcp_rcvbuf="-1": want a number from 1 to 2147483647`,
		"tcp://host:1/?tcp_rcvbuf=1k":                           `option tcp_rcvbuf="1k": want a number from 1`,
		"tcp://host:1/?tcp_sndbuf=2147483648":                   `option tcp_sndbuf="2147483648": want a number from 1`,
		"tcp://host:1/?tcp_linger=-2":                           `option tcp_linger="-2": want a number from -1 to 2147483647`,
		"tcp://host:1/?tcp_connecttimeout=-1":                   `option tcp_connecttimeout="-1": want a number from 0 to 2147483647`,
		"tcp://host:1/?tcp_connecttimeout=1s":                   `option tcp_connecttimeout="1s": want a number from 0 to 2147483647`,
		"tcp://host:1/?tcp_connecttimeout=":                     `option tcp_connecttimeout="": want a number`,
		"tcp://host:1/?sni=a.example":                           `option sni="a.example": the scheme tcp is without TLS; use tcps`,
		"tcps://host:1/?sni=":                                   `option sni="": want a host name`,
		"tcps://host:1/?sni=a b":                                `option sni="a b": want a host name`,
		"tcps://host:1/?sni=a.example:443":                      `option sni="a.example:443": want a host name`,
		"tcps://host:1/?sni=192.0.2.1":                          `option sni="192.0.2.1": want a host name`,
		"tcps://host:1/?sni=2001:db8::1":                        `option sni="2001:db8::1": want a host name`,
		"tcps://host:1/?sni=a&sni=b":                            "option sni is given twice",
		"tcp://host:1/?pretty=1&pretty=1":                       "option pretty is given twice",
		"tcp://host:1/?Pretty=1":                                `unknown option "Pretty"`,
		"tcp://host:1/?unix_nodelay=1":                          `unknown option "unix_nodelay"`, // these belong to their scheme unix
		"tcp://host:1/?tcp_linger=":                             `option tcp_linger="": want a number`,
		"tcp://host:1/?bind=":                                   `option bind="": want an IP address`,
		"tcp://host:1/?bind=localhost":                          `option bind="localhost": want an IP address`,
		"tcp://host:1/?bind=:80":                                `option bind=":80": want an IP address`,
		"tcp://host:1/?bind=192.0.2.1:":                         `option bind="192.0.2.1:": want an IP address`,
		"tcp://host:1/?bind=192.0.2.1:65536":                    `option bind="192.0.2.1:65536": want an IP address`,
		"tcp://host:1/?bind=192.0.2.0/24":                       `option bind="192.0.2.0/24": want an IP address`,
		"tcp://host:1/?bind=eth0":                               `option bind="eth0": want an IP address`,
		"tcp://host:1/?bind=]::1[":                              `option bind="]::1[": want an IP address`,
		"tcp://host:1/?bind=[::1":                               `option bind="[::1": want an IP address`,
		"tcp://host:1/?ip_protocol_prefer=":                     `option ip_protocol_prefer="": want ipv4 or ipv6`,
		"tcp://host:1/?ip_protocol_prefer=IPv4":                 `option ip_protocol_prefer="IPv4": want ipv4 or ipv6`,
	} {
		t.Run(raw, func(t *testing.T) {
			got, err := preflight.ParseURL(raw)
			require.Nil(t, got)
			require.ErrorContains(t, err, text)
			require.True(t, strings.HasPrefix(err.Error(), "preflight: parse URL: "), err.Error())
			// If the quoted text was cut off, a whole phrase must remain of the
			// error.
			require.Equal(t, strings.Count(err.Error(), "("), strings.Count(err.Error(), ")"), err.Error())
		})
	}
}

func TestTargetString(t *testing.T) {
	for raw, want := range map[string]string{
		"tcp://host:1": "tcp://host:1/",
		"TCPS://host:1/a%2Fb/%C3%A9?tcp_linger=1&http_preflight=1": "tcps://host:1/a%2Fb/%C3%A9?http_preflight=true",
		"ws://me:pw@host/p?http_preflight=1":                       "ws://me:xxxxx@host:80/p",
		"wss://[::1]":                                              "wss://[::1]:443/",
		"tcp://[::1]:1/":                                           "tcp://[::1]:1/",
		"tcp://[fe80::1%25eth0]:1/":                                "tcp://[fe80::1%25eth0]:1/",
		"tcp://user@host:1/":                                       "tcp://user@host:1/",
		"tcp://user:hunter2@host:1/p":                              "tcp://user:xxxxx@host:1/p",
		"tcp://:hunter2@host:1//p":                                 "tcp://:xxxxx@host:1//p",
	} {
		t.Run(raw, func(t *testing.T) {
			target, err := preflight.ParseURL(raw)
			require.NoError(t, err)
			require.Equal(t, want, target.String())
			again, err := preflight.ParseURL(target.String())
			require.NoError(t, err)
			require.Equal(t, want, again.String())
		})
	}
}

// TestPasswordStaysSecret: a connection string comes from a configuration, and
// its errors go to logs.
func TestPasswordStaysSecret(t *testing.T) {
	for _, rest := range []string{
		"host", "host:", "host:x", "host:65536", ":1", "[::1", "[::g]:1", "h st:1", "host:1/%zz", "host:1/\x00", "host:1/#f",
		"host:1/?foo=1", "host:1/?tcp_linger=x", "host:1/?a;b", "host:1/?bind=%zz", "host%41:1", "@host:x",
	} {
		for _, scheme := range []string{"tcp", "tcps", "http", "", "%"} {
			for _, userinfo := range []string{
				"user:hunter2", ":hunter2", "user:hunter2%zz", "user:hunter2 x", "user:hunter2@x", "user:x:hunter2", "user:hunter2\x00", "user:é hunter2",
			} {
				raw := scheme + "://" + userinfo + "@" + rest
				_, err := preflight.ParseURL(raw)
				require.Error(t, err, raw)
				for ; err != nil; err = errors.Unwrap(err) {
					require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), "hunter2", raw)
				}
			}
		}
	}
	for _, raw := range []string{
		"hunter2", "user:hunter2@host:1", "tcp://user:hunter2", "tcp://user:1#hunter2@host:1/", "tcp:user:hunter2@host:1",
	} {
		_, err := preflight.ParseURL(raw)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2", raw)
	}
}

// TestPasswordStaysSecretInTarget: no format of fmt, and so none of log and
// slog, shows the password of a Target.
func TestPasswordStaysSecretInTarget(t *testing.T) {
	target, err := preflight.ParseURL("tcps://user:hunter2@host:1/path?http_preflight=true")
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		require.NotContains(t, fmt.Sprintf(verb, target), "hunter2", verb)
		require.NotContains(t, fmt.Sprintf(verb, *target), "hunter2", "%s of the value", verb)
		require.NotContains(t, fmt.Sprintf(verb, []any{target, struct{ T preflight.Target }{*target}}), "hunter2", "%s inside another", verb)
	}
}

// TestPasswordThatIsNotEncoded: everything after the "?" is then parsed as an
// option. The rest of the password is the name of an unknown option.
func TestPasswordThatIsNotEncoded(t *testing.T) {
	_, err := preflight.ParseURL("tcp://user:12?hunter2@host:1/path?http_preflight=true")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}
