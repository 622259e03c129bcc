package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/coder/websocket"
)

// coder is a socket of coder/websocket. Each fragment becomes a frame.
type coder struct {
	*websocket.Conn
	closed int // the code that both sides have sent, if this side was first
}

func newCoder(c *websocket.Conn, err error) (socket, error) {
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	return &coder{Conn: c}, nil
}

func dialCoder(url string, roots *x509.CertPool) (socket, error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	c, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{subprotocol},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	return newCoder(c, err)
}

func acceptCoder(w http.ResponseWriter, r *http.Request) (socket, error) {
	return newCoder(websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{subprotocol}, CompressionMode: websocket.CompressionContextTakeover,
	}))
}

func (c *coder) send(fragments ...[]byte) error {
	w, err := c.Writer(context.Background(), websocket.MessageBinary)
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

func (c *coder) sendText() error {
	return c.Write(context.Background(), websocket.MessageText, []byte("text"))
}

// sendPing needs a reader: it receives the Pong and notifies the goroutine.
func (c *coder) sendPing(answered func()) error {
	go func() {
		if c.Ping(context.Background()) == nil {
			answered()
		}
	}()
	return nil
}

func (c *coder) receive() ([]byte, error) {
	kind, b, err := c.Read(context.Background())
	switch end, ok := errors.AsType[websocket.CloseError](err); {
	case ok:
		return nil, closeError(end.Code)
	case err != nil && c.closed != 0:
		return nil, closeError(c.closed)
	case err == nil && kind != websocket.MessageBinary:
		err = errors.New("a text message")
	}
	return b, err
}

// close sends a Close frame and waits for the answer, which must have the same code.
func (c *coder) close(code int) error {
	reason := "bye"
	if code == int(websocket.StatusNoStatusRcvd) {
		reason = ""
	}
	err := c.Conn.Close(websocket.StatusCode(code), reason)
	if err == nil {
		c.closed = code
	}
	return err
}

func (c *coder) drop() { c.CloseNow() }
