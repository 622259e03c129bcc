package origin_test

import (
	"testing"

	"github.com/preflight-go/preflight/internal/origin"
	"github.com/stretchr/testify/require"
)

func TestNew(t *testing.T) {
	for _, entry := range []string{
		"*", "null", "https://app.example", "http://localhost:3000", "https://127.0.0.1", "https://[::1]:8443",
		"https://*.app.example", "https://*.app.example:8443", "chrome-extension://abcdefghijklmnop", "https://xn--bcher-kva.example",
		"https://a_b.example", "http://h:443", "https://h:80", "app+x.y-z://h:65535",
	} {
		_, err := origin.New([]string{entry})
		require.NoError(t, err, entry)
	}
	for entry, want := range map[string]string{
		"":                       "begin with a scheme",
		"app.example":            "begin with a scheme",
		"*.app.example":          "begin with a scheme",
		"//app.example":          "begin with a scheme",
		"://app.example":         "begin with a scheme",
		"1s://app.example":       "begin with a scheme",
		"HTTPS://app.example":    "begin with a scheme",
		"https:app.example":      "begin with a scheme",
		"Null":                   "begin with a scheme",
		"https://":               "only a host",
		"https://app.example/":   "only a host",
		"https://APP.example":    "only a host",
		"https://bücher.example": "only a host",
		"https://u@app.example":  "only a host",
		"https://*":              "only a host",
		"https://a.*.example":    "only a host",
		"https://**.example":     "only a host",
		"https://*.*.example":    "only a host",
		"https://*.":             "only a host",
		"https://.example":       "only a host",
		"https://app.example.":   "only a host",
		"https://a..example":     "only a host",
		"https://[::1":           "only a host",
		"https://[::01]":         "only a host",
		"https://[fe80::1%25e]":  "only a host",
		"https://[127.0.0.1]":    "only a host",
		"https://a b":            "only a host",
		"https://h:":             "a port",
		"https://h:0":            "a port",
		"https://h:08":           "a port",
		"https://h:65536":        "a port",
		"https://h:100000":       "a port",
		"https://h:8a":           "a port",
		"https://h:443":          "default port",
		"wss://h:443":            "default port",
		"http://*.h:80":          "default port",
		"ws://h:80":              "default port",
		"https://*.[::1]":        "in front of an address",
	} {
		_, err := origin.New([]string{"https://ok.example", entry})
		require.ErrorContains(t, err, want, entry)
		require.ErrorContains(t, err, entry)
	}
}

func TestAllows(t *testing.T) {
	for name, test := range map[string]struct {
		list []string
		yes  []string
		no   []string
	}{
		"nothing": {nil, nil, []string{"", "*", "null", "https://app.example"}},
		"one": {[]string{"https://app.example"}, []string{"https://app.example"}, []string{
			"", "null", "http://app.example", "https://app.example:8443", "https://app.example:443", "https://app.example/",
			"https://App.example", "https://app.example.evil", "https://evil-app.example", "https://a.app.example", "https://app.exampl", " https://app.example",
		}},
		"a port": {[]string{"http://localhost:3000"}, []string{"http://localhost:3000"}, []string{"http://localhost", "http://localhost:30001"}},
		"subdomains": {[]string{"https://*.app.example"}, []string{"https://a.app.example", "https://a.b.app.example"}, []string{
			"https://app.example", "https://.app.example", "https://a..app.example", "https://evilapp.example", "http://a.app.example",
			"https://a.app.example:8443", "https://a.app.example.evil", "https://evil/.app.example", "https://evil:1.app.example",
			"https://evil#.app.example", "https://u@a.app.example", "https://A.app.example", "https://*.app.example", "null",
		}},
		"subdomains, with a port": {[]string{"https://*.app.example:8443"}, []string{"https://a.app.example:8443"}, []string{"https://a.app.example", "https://app.example:8443"}},
		"any":                     {[]string{"*"}, []string{"https://app.example", "http://[::1]", "app://x"}, []string{"null", "*", "", "x", "https://", "https://a/b"}},
		"any and null":            {[]string{"*", "null"}, []string{"https://app.example", "null"}, []string{"Null"}},
		"null":                    {[]string{"null"}, []string{"null"}, []string{"https://null", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := origin.New(test.list)
			require.NoError(t, err)
			for _, value := range test.yes {
				require.True(t, l.Allows(value), value)
			}
			for _, value := range test.no {
				require.False(t, l.Allows(value), value)
			}
		})
	}
}
