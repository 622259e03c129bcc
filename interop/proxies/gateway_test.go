package proxies

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/preflight-go/preflight/interop/internal/lab"
)

// goALB does what AWS ALB does: it forwards WebSocket, and any other upgrade without its
// Connection field.
var goALB = proxy{
	name: "alb-stand-in",
	start: func(t *testing.T, backend string, _ ...string) *lab.Edge {
		return serveGateway(t, &httputil.ReverseProxy{
			ErrorLog: log.New(io.Discard, "", 0),
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(&url.URL{Scheme: "http", Host: backend})
				r.Out.Host = r.In.Host
				r.SetXForwarded()
				if !websocket.IsWebSocketUpgrade(r.In) {
					r.Out.Header.Del("Connection")
				}
			},
		})
	},
	outcomes: map[string]string{
		"Fall": "426, then websocket", // of the listener
		"Idle": notApplicable,         // it has no timer here
	},
}

// The gateways end the WebSocket of the client, and open another one to the server, as those
// that are built on Netty do. What arrives in one message may leave in another.
var (
	goMerges = gatewayProxy("gateway-merges", gateway{merges: true})
	goSplits = gatewayProxy("gateway-splits", gateway{splits: true})
	goPings  = gatewayProxy("gateway-pings", gateway{pings: 20 * time.Millisecond})
	goLimits = gatewayProxy("gateway-64KiB", gateway{limit: 64 << 10})
)

func gatewayProxy(name string, g gateway) proxy {
	return proxy{
		name: name,
		start: func(t *testing.T, backend string, edits ...string) *lab.Edge {
			g := g
			g.backend = backend
			if len(edits) > 0 {
				g.idle = time.Second
			}
			return serveGateway(t, g)
		},
		idle: []string{"", ""},
		outcomes: map[string]string{
			"Fall": "426, then websocket",
		},
	}
}

// serveGateway serves h below /client/, without that prefix.
func serveGateway(t *testing.T, h http.Handler) *lab.Edge {
	mux := http.NewServeMux()
	mux.Handle("/client/", http.StripPrefix("/client", h))
	l, server := lab.Listen(t), &http.Server{Handler: mux}
	lab.RunServer(t, func() { server.Serve(l) }, server.Close)
	return &lab.Edge{Plain: lab.Frontend{Address: l.Addr().String()}}
}

// A gateway is a reverse proxy for WebSocket that parses and writes all messages.
type gateway struct {
	backend string
	merges  bool          // it joins the messages that have arrived
	splits  bool          // it cuts messages, and sends each in fragments
	pings   time.Duration // it sends PINGs of its own (RFC 6455)
	limit   int64         // of a message; 0: none
	idle    time.Duration // it ends a WebSocket without a message for so long; 0: never
}

func (g gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const fragment = 512
	buffer := 0 // the default
	if g.splits {
		buffer = fragment
	}
	header := r.Header.Clone()
	for name := range header {
		if name == "Connection" || name == "Upgrade" || strings.HasPrefix(name, "Sec-Websocket-") {
			header.Del(name)
		}
	}
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	header.Add("X-Forwarded-For", client)
	header.Set("Host", r.Host)
	subprotocols := websocket.Subprotocols(r)
	upgrader := websocket.Upgrader{Subprotocols: subprotocols, WriteBufferSize: buffer}
	if !websocket.IsWebSocketUpgrade(r) {
		upgrader.Upgrade(w, r, nil) // answers 400
		return
	}
	dialer := websocket.Dialer{Subprotocols: subprotocols, WriteBufferSize: buffer}
	toServer, answer, err := dialer.DialContext(r.Context(), "ws://"+g.backend+r.URL.RequestURI(), header)
	if err != nil {
		refuse(w, answer)
		return
	}
	defer toServer.Close()
	answer.Header.Del("Connection")
	answer.Header.Del("Upgrade")
	answer.Header.Del("Sec-Websocket-Accept")
	answer.Header.Del("Sec-Websocket-Protocol")
	toClient, err := upgrader.Upgrade(w, r, answer.Header)
	if err != nil {
		return
	}
	defer toClient.Close()
	done := make(chan struct{}, 2)
	for from, to := range map[*websocket.Conn]*websocket.Conn{toServer: toClient, toClient: toServer} {
		go func() {
			g.pump(to, from)
			done <- struct{}{}
		}()
	}
	<-done
	toServer.Close()
	toClient.Close()
	<-done
}

// refuse passes on the answer of the server to the handshake.
func refuse(w http.ResponseWriter, answer *http.Response) {
	if answer == nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	for name, values := range answer.Header {
		if name != "Connection" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(answer.StatusCode)
	io.Copy(w, answer.Body)
}

// pump passes messages on until one of the connections ends. It answers PINGs itself.
func (g gateway) pump(to, from *websocket.Conn) {
	from.SetReadLimit(g.limit)
	messages := make(chan []byte, 16)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(messages)
		for {
			if g.idle > 0 {
				from.SetReadDeadline(time.Now().Add(g.idle))
			}
			_, message, err := from.ReadMessage()
			if err != nil {
				code := websocket.CloseNormalClosure
				if closed, ok := err.(*websocket.CloseError); !ok || closed.Code != code {
					code = websocket.CloseGoingAway
				}
				to.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
				return
			}
			select {
			case messages <- message:
			case <-stop:
				return
			}
		}
	}()
	var tick <-chan time.Time
	if g.pings > 0 {
		ticker := time.NewTicker(g.pings)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case message, ok := <-messages:
			if !ok || g.send(to, message, messages) != nil {
				return
			}
		case <-tick:
			to.WriteControl(websocket.PingMessage, []byte("gateway"), time.Now().Add(time.Second))
		}
	}
}

// send writes a message. If the gateway merges, it adds those that have arrived.
func (g gateway) send(to *websocket.Conn, message []byte, more <-chan []byte) error {
	for g.merges && len(more) > 0 && len(message) < 256<<10 {
		message = append(message, <-more...)
	}
	if !g.splits {
		return to.WriteMessage(websocket.BinaryMessage, message)
	}
	for half := len(message) / 2; ; half = len(message) {
		w, err := to.NextWriter(websocket.BinaryMessage)
		for part := message[:half]; err == nil && len(part) > 0; {
			n := min(len(part), 500) // below the buffer, which is sent as a fragment when it is full
			_, err = w.Write(part[:n])
			part = part[n:]
		}
		if err == nil {
			err = w.Close()
		}
		if message = message[half:]; err != nil || len(message) == 0 {
			return err
		}
	}
}
