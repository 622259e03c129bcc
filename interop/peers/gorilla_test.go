package peers

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"github.com/preflight-go/preflight/interop/internal/lab"
)

// gorilla is a socket of gorilla/websocket. Its small write buffer leads to fragments of about
// 100 bytes.
type gorilla struct{ *websocket.Conn }

const gorillaBuffer = 100

func dialGorilla(url string, roots *x509.CertPool) (socket, error) {
	d := websocket.Dialer{
		Subprotocols: []string{subprotocol}, WriteBufferSize: gorillaBuffer, EnableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: roots}, HandshakeTimeout: lab.Timeout,
	}
	c, _, err := d.Dial(url, nil)
	return gorilla{c}, err
}

func acceptGorilla(w http.ResponseWriter, r *http.Request) (socket, error) {
	u := websocket.Upgrader{Subprotocols: []string{subprotocol}, WriteBufferSize: gorillaBuffer, EnableCompression: true}
	c, err := u.Upgrade(w, r, nil)
	return gorilla{c}, err
}

func (g gorilla) send(fragments ...[]byte) error {
	w, err := g.NextWriter(websocket.BinaryMessage)
	for _, b := range fragments {
		if err == nil {
			_, err = w.Write(b)
		}
	}
	if err != nil {
		return err
	}
	return w.Close()
}

func (g gorilla) sendText() error { return g.WriteMessage(websocket.TextMessage, []byte("text")) }

func (g gorilla) sendPing(answered func()) error {
	const payload = "rfc"
	g.SetPongHandler(func(got string) error {
		if got == payload {
			answered()
		}
		return nil
	})
	return g.control(websocket.PingMessage, []byte(payload))
}

func (g gorilla) control(kind int, payload []byte) error {
	return g.WriteControl(kind, payload, time.Now().Add(lab.Timeout))
}

func (g gorilla) receive() ([]byte, error) {
	kind, b, err := g.ReadMessage()
	if end, ok := errors.AsType[*websocket.CloseError](err); ok {
		return nil, closeError(end.Code)
	}
	if err == nil && kind != websocket.BinaryMessage {
		err = errors.New("a text message")
	}
	return b, err
}

func (g gorilla) close(code int) error {
	return g.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, "bye"))
}

func (g gorilla) drop() { g.Conn.Close() }
