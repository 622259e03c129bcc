package edge

import "strings"

// words has what the library says in an error, and what that is for the command. Of two that
// begin at the same place the first is taken, so one that is longer stands before its beginning.
//
// What an error says of the fields of a PreflightListener stays: the server may be any program.
var words = strings.NewReplacer(
	// Fields of the request.
	"preflight: GetHeader: ", "preflight: ",
	"GetHeader returned Proxy-Authorization although Proxy is not set", "--header-file or --header-command has Proxy-Authorization, and HTTPS_PROXY is not set",
	"ProxyHeader or GetHeader", "--header-file or --header-command",
	"Header or GetHeader", "--header-file or --header-command",
	"Header or Path", "the fields of --header-file or the path in the URL",

	// The forward proxy.
	"the URL that Proxy returns", "HTTPS_PROXY",
	"set Proxy with a socks5:// URL", "set HTTPS_PROXY to a socks5:// URL",
	"Set Proxy if", "Set HTTPS_PROXY if",

	// TLS.
	"set TLSConfig, or write tcps:// in a URL", "write https://, wss:// or tcps:// in the URL",
	"leave TLSConfig nil, or write tcp:// in a URL", "write http://, ws:// or tcp:// in the URL",
	"RootCAs of TLSConfig", "the file of --ca",
	"Set Certificates of TLSConfig", "Set --cert and --key",
	"Certificates of TLSConfig", "--cert",
	"ServerName of TLSConfig or Host", "--server-name",
	"ServerName of TLSConfig, or Host", "--server-name, or the host in the URL",
	"Host and TLSConfig.ServerName agree", "the host in the URL and --server-name agree",
	"the ServerName of TLSConfig", "that of --server-name",
	"Correct MinVersion or MaxVersion of TLSConfig, or the versions", "Correct the versions",
	"the peer and TLSConfig have", "the peer and this command have",
	"in common with TLSConfig", "in common with this command",

	// Carriers and times.
	"needs CarrierWebSocket, which is not in the field Carriers; add it", "needs --carrier websocket; add it",
	"add CarrierWebSocket", "add --carrier websocket",
	"the field Carriers holds", "--carrier names",
	"or another to PreflightDialer.Carriers", "or set another --carrier",
	"PreflightDialer.Protocol or PreflightListener.Protocols", "PreflightListener.Protocols",
	"preflight: MaxIdleTimeout", "preflight: --max-idle",
	"preflight: HandshakeTimeout", "preflight: --timeout",
	"at most; negative means none", "at most",

	// The URL. Its path always begins with a slash, and a fragment has an error of its own.
	`must begin with "/", be percent-encoded where RFC 3986 wants it, and have no fragment`, "must be percent-encoded where RFC 3986 wants it",
	"Host (now an address) and Path", "the host (now an address) and the path in the URL",
	"Host and Path", "the host and the path in the URL",
	"Path, Host and Protocol", "the host and the path in the URL",
	"Path and Host", "the host and the path in the URL",
	"`cache_peer` and Host", "`cache_peer` and the host in the URL",
	"slash in Path", "slash in the URL",
	"Path and the credentials", "the path in the URL and the credentials",

	// The answer.
	". StatusError.Body", ". The body of the answer",
	"StatusError.Body", "the body of the answer",
	"StatusError.Reason", "the field Preflight-Refusal of the answer",
)

// InFlags returns the text of an error of the library in the words of the command.
func InFlags(text string) string { return words.Replace(text) }

// A flagError is an error of the library whose text is in the words of the command.
type flagError struct{ error }

func (e flagError) Error() string { return InFlags(e.error.Error()) }
func (e flagError) Unwrap() error { return e.error }
