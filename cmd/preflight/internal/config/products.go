package config

import "fmt"

// A product is a reverse proxy that forwards tunnels.
type product struct {
	title         string   // in comments
	folder        string   // in templates and in deploy
	files         []string // in the folder
	backend, host string   // the defaults, where they differ from the usual ones
	webSocketOnly bool     // it forwards no other upgrade
	// refuses has the flags that the product cannot follow, with the reasons.
	refuses map[string]string
}

// The flags, as errors name them.
const (
	flagPath      = "--path"
	flagBackend   = "--backend"
	flagListen    = "--listen"
	flagTLSListen = "--tls-listen"
	flagHost      = "--host"
	flagCert      = "--cert"
	flagKey       = "--key"
	flagCarrier   = "--carrier"
	flagSendProxy = "--send-proxy"
)

const (
	forwardsAll = "it forwards every upgrade, and has no list of them"
	sendsNone   = "only haproxy can report the address by the PROXY protocol"
)

var products = map[string]product{
	"nginx": {
		title: "nginx", folder: "nginx", files: []string{"preflight.conf"},
		refuses: map[string]string{flagSendProxy: sendsNone},
	},
	"haproxy": {
		title: "HAProxy", folder: "haproxy", files: []string{"haproxy.cfg"},
		refuses: map[string]string{
			flagCarrier: forwardsAll,
			flagKey:     "it reads the key from the file beside that of --cert, with the ending .key",
		},
	},
	"apache": {
		title: "Apache", folder: "apache", files: []string{"preflight.conf"},
		refuses: map[string]string{flagSendProxy: sendsNone},
	},
	"caddy": {
		title: "Caddy", folder: "caddy", files: []string{"Caddyfile"},
		refuses: map[string]string{flagCarrier: forwardsAll, flagSendProxy: sendsNone},
	},
	"envoy": {
		title: "Envoy", folder: "envoy", files: []string{"envoy.yaml"},
		refuses: map[string]string{flagSendProxy: sendsNone},
	},
	"traefik": {
		title: "Traefik", folder: "traefik", files: []string{"traefik.yml", "dynamic.yml"},
		refuses: map[string]string{flagCarrier: forwardsAll, flagSendProxy: sendsNone},
	},
	"lighttpd": {
		title: "lighttpd", folder: "lighttpd", files: []string{"lighttpd.conf"},
		refuses: map[string]string{flagCarrier: forwardsAll, flagSendProxy: sendsNone},
	},
	"varnish": {
		title: "Varnish", folder: "varnish", files: []string{"preflight.vcl"},
		refuses: map[string]string{
			flagTLSListen: "it has no TLS", flagCert: "it has no TLS", flagKey: "it has no TLS", flagSendProxy: sendsNone,
		},
	},
	"squid": {
		title: "Squid", folder: "squid", files: []string{"reverse.conf"},
		refuses: map[string]string{flagSendProxy: sendsNone},
	},
	"h2o": {
		title: "h2o", folder: "h2o", files: []string{"h2o.conf"}, webSocketOnly: true,
		refuses: map[string]string{flagSendProxy: sendsNone},
	},
	"ats": {
		title: "Traffic Server", folder: "trafficserver", files: []string{"remap.config", "records.config"}, webSocketOnly: true,
		refuses: map[string]string{flagSendProxy: sendsNone},
	},
	"alb": {
		title: "ALB", folder: "alb", files: []string{"template.yaml"}, webSocketOnly: true,
		backend: "10.0.0.10:9007",
		refuses: map[string]string{
			flagListen: "it needs a certificate", flagTLSListen: "its port is 443",
			flagCert: "the certificate is a parameter of the template", flagKey: "the certificate is a parameter of the template",
			flagSendProxy: sendsNone,
		},
	},
	"cloudflared": {
		title: "cloudflared", folder: "cloudflared", files: []string{"config.yml"}, webSocketOnly: true,
		host: "edge.example",
		refuses: map[string]string{
			flagListen: "Cloudflare listens", flagTLSListen: "Cloudflare listens",
			flagCert: "Cloudflare has the certificate", flagKey: "Cloudflare has the certificate", flagSendProxy: sendsNone,
		},
	},
	"kubernetes": {
		title: "Kubernetes", folder: "kubernetes", files: []string{"deployment.yaml", "gateway-api.yaml", "gateway-api-websocket.yaml", "istio.yaml", "traefik.yaml", "nginx-gateway-fabric.yaml", "ingress-nginx.yaml"},
		backend: "preflight:9007", host: "edge.example",
		refuses: map[string]string{
			flagListen: "a gateway has its ports already", flagTLSListen: "a gateway has its ports already",
			flagCert: "the certificate is in a Secret", flagKey: "the key is in a Secret",
			flagCarrier: "the gateways have no list in common", flagSendProxy: sendsNone,
		},
	},
}

// checkSupport returns an error if o sets what the product cannot follow.
func (p product) checkSupport(o Options) error {
	for _, f := range []struct {
		flag string
		set  bool
	}{
		{flagListen, o.Listen != ""}, {flagTLSListen, o.TLSListen != ""}, {flagHost, o.Host != ""}, {flagCert, o.Cert != ""},
		{flagKey, o.Key != ""}, {flagCarrier, len(o.Carriers) > 0}, {flagSendProxy, o.SendProxy},
	} {
		if why, refused := p.refuses[f.flag]; f.set && refused {
			return fmt.Errorf("%s cannot follow %s: %s", p.title, f.flag, why)
		}
	}
	return nil
}
