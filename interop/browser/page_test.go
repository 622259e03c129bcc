package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// TestPage tests the page of examples/browser.
func TestPage(t *testing.T) {
	browser, program := startChromium(t), buildProgram(t)
	t.Run("Direct", func(t *testing.T) {
		address := startProgram(t, program, nil).Addresses[0]
		tb := openTab(t, browser, "http://"+address+"/")
		onePort(tb, address, "tcp://"+address+"/lines?http_preflight=true")
		look(tb)
		require.Empty(t, tb.messages())
	})
	t.Run("Nginx", func(t *testing.T) {
		var edge string
		d := startProgram(t, program, func(address string) (origin string) {
			edge = lab.StartNginx(t, address).Plain.Address
			return "http://" + edge
		})
		tb := openTab(t, browser, "http://"+edge+"/client/")
		onePort(tb, d.Addresses[0], "tcp://"+edge+"/client/lines?http_preflight=true")
		require.Empty(t, tb.messages())
	})
	// The same page, from an origin that the program does not know.
	t.Run("Refused", func(t *testing.T) {
		address := startProgram(t, program, nil).Addresses[0]
		edge := lab.StartNginx(t, address).Plain.Address
		tb := openTab(t, browser, "http://"+edge+"/client/")
		tb.wait(isDisconnected)
		reason := evaluate[string](tb, "document.querySelector('#reason').innerText")
		require.Contains(t, reason, "403: the server does not allow the origin of this page")
		require.Contains(t, reason, "-origin http://"+edge+".")
		lab.WaitUntil(t, "the console says why", func() bool { return strings.Contains(tb.messages(), "Unexpected response code: 403") })
		require.Equal(t, "alert", evaluate[string](tb, "document.querySelector('#reason').role"))
	})
	t.Run("ServerGoesAway", func(t *testing.T) {
		d := startProgram(t, program, nil)
		tb := openTab(t, browser, "http://"+d.Addresses[0]+"/")
		subscribe(tb)
		for _, end := range []struct {
			signal syscall.Signal
			reason string
		}{
			{syscall.SIGKILL, "the connection was lost"},
			{syscall.SIGTERM, "The server has ended the connection."},
		} {
			d.Signal(t, end.signal)
			tb.wait(isDisconnected)
			lab.Receive(t, d.Ended)
			require.Contains(t, evaluate[string](tb, "document.querySelector('#reason').innerText"), end.reason)
			require.Equal(t, 0, evaluate[int](tb, "document.querySelectorAll('#topics li').length"))

			// What is published now is not sent.
			tb.do(chromedp.SendKeys(chromedp.CSS("[name=message]"), "nobody hears this\n"))
			tb.wait("document.querySelector('#reason').innerText.startsWith('Nothing was sent')")

			lab.WaitUntil(t, "the program runs again", d.Start)
			tb.do(chromedp.Focus(chromedp.CSS("#reconnect")))
			tb.press(kb.Enter)
			tb.wait(isSubscribed) // again, without a new request of the user
			require.Equal(t, "", evaluate[string](tb, "document.querySelector('#reason').innerText"))
		}
	})
}

// The program is built once, so that the signals of the tests reach it and not the go command.
func buildProgram(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "browser")
	lab.RunCommand(t, "go", "build", "-o", path, "github.com/preflight-go/preflight/examples/browser")
	return path
}

// startProgram runs the program. front may start a proxy in front of its address, and returns
// the origin of the page there.
func startProgram(t *testing.T, path string, front func(address string) (origin string)) *lab.Daemon {
	t.Helper()
	var address string
	return lab.StartDaemon(t, t.TempDir(), 1, func(addresses []string) (command []string) {
		address = addresses[0]
		command = []string{path, "-listen", address}
		if front != nil {
			command = append(command, "-origin", front(address))
		}
		return command
	}, func() bool { return lab.Accept(address) })
}

const (
	isConnected    = "document.querySelector('#state').innerText === 'Connected'"
	isDisconnected = "document.querySelector('#state').innerText === 'Disconnected'"
	isSubscribed   = "document.querySelector('#topics li')?.innerText === 'greetings'"
)

// subscribe subscribes to greetings by the keyboard alone.
func subscribe(tb *tab) {
	tb.Helper()
	tb.wait(isConnected)
	tb.press(kb.Tab) // to the topic, which has a default
	require.Equal(tb, "Topic", evaluate[string](tb, "document.activeElement.labels[0].innerText.trim()"))
	tb.press(kb.Enter)
	tb.wait(isSubscribed)
}

// onePort requires that the page, a plain client and a client by an upgrade reach each other.
func onePort(tb *tab, plainAddress, url string) {
	tb.Helper()
	subscribe(tb)
	plain := newClient(tb, lab.DialTCP(tb.T, plainAddress))
	plain.exchange(`{"c":"subscribe","t":"greetings"}`, `{"c":"subscribed","t":"greetings"}`)

	// From the page, by the keyboard alone.
	for range 3 { // the button, the topic, the message
		tb.press(kb.Tab)
	}
	require.Equal(tb, "Message", evaluate[string](tb, "document.activeElement.labels[0].innerText.trim()"))
	tb.press("hello from the page" + kb.Enter)
	plain.want(`{"c":"message","t":"greetings","d":"hello from the page"}`)
	tb.wait(arrived(1, "hello from the page"))

	// To the page.
	plain.exchange(`{"c":"publish","t":"greetings","d":"hello by TCP"}`, `{"c":"message","t":"greetings","d":"hello by TCP"}`)
	tb.wait(arrived(2, "hello by TCP"))
	conn, err := new(preflight.PreflightDialer).DialURL(tb.Context(), url)
	require.NoError(tb, err)
	require.Equal(tb, preflight.CarrierUpgrade, conn.(*preflight.Conn).Carrier())
	publisher := newClient(tb, lab.WithDeadline(tb.T, conn))
	publisher.send(`{"c":"publish","t":"greetings","n":1,"d":{"hello":"by preflight"}}`)
	plain.want(`{"c":"message","t":"greetings","n":1,"d":{"hello":"by preflight"}}`)
	tb.wait(arrived(3, `{\"hello\":\"by preflight\"}`))

	// The page shows text as text, whatever it is.
	plain.exchange(`{"c":"publish","t":"greetings","d":"<b>bold</b>"}`, `{"c":"message","t":"greetings","d":"<b>bold</b>"}`)
	tb.wait(arrived(4, "<b>bold</b>"))
}

// arrived is true in the page if message n is the last one.
func arrived(n int, text string) string {
	want, _ := json.Marshal(n)
	return "document.querySelectorAll('#messages li').length === " + string(want) +
		" && document.querySelector('#messages li:last-child span').innerText === \"" + text + "\""
}

// A client speaks the protocol of the broker.
type client struct {
	tb    *tab
	conn  net.Conn
	lines *bufio.Scanner
}

func newClient(tb *tab, conn net.Conn) *client { return &client{tb, conn, bufio.NewScanner(conn)} }

func (c *client) send(line string) {
	c.tb.Helper()
	_, err := c.conn.Write([]byte(line + "\n"))
	require.NoError(c.tb, err)
}

func (c *client) want(line string) {
	c.tb.Helper()
	require.True(c.tb, c.lines.Scan(), "%v", c.lines.Err())
	// The broker writes <, > and & as JSON may have them in HTML.
	require.JSONEq(c.tb, line, c.lines.Text())
}

func (c *client) exchange(line, answer string) {
	c.tb.Helper()
	c.send(line)
	c.want(answer)
}

// look requires that the page suits keyboards, screen readers, and both color schemes. With
// -update, it makes the picture of the documentation.
func look(tb *tab) {
	tb.Helper()
	require.True(tb, evaluate[bool](tb, "[...document.querySelectorAll('input')].every((input) => input.labels[0]?.innerText.trim())"), "each input has a label")
	require.True(tb, evaluate[bool](tb, "[...document.querySelectorAll('button')].every((button) => button.textContent.trim())"), "each button has a name")
	require.Equal(tb, "status alert log", evaluate[string](tb, "['#state', '#reason', '#messages'].map((id) => document.querySelector(id).role).join(' ')"))
	require.Equal(tb, "Message", evaluate[string](tb, "document.activeElement.labels[0].innerText.trim()"), "the focus stays after publishing")
	require.NotEqual(tb, "none", evaluate[string](tb, "getComputedStyle(document.activeElement).outlineStyle"), "the focus is visible")

	scheme := func(name string) (background string) {
		tb.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
			})
			return err
		}))
		return evaluate[string](tb, "getComputedStyle(document.body).backgroundColor")
	}
	require.Equal(tb, "rgb(20, 23, 27)", scheme("dark"))
	require.Equal(tb, "rgb(245, 246, 248)", scheme("light"))

	const width, height = 860, 620
	tb.do(chromedp.EmulateViewport(320, height))
	require.LessOrEqual(tb, evaluate[int](tb, "document.documentElement.scrollWidth"), 320, "it fits on a telephone")
	tb.do(chromedp.EmulateViewport(width, height))
	picture := get(tb, chromedp.CaptureScreenshot())
	file := filepath.Join("..", "..", "docs", "browser.png")
	if *update {
		require.NoError(tb, os.WriteFile(file, picture, 0o644))
	}
	shipped, err := os.ReadFile(file)
	require.NoError(tb, err)
	for _, data := range [][]byte{picture, shipped} {
		config, err := png.DecodeConfig(bytes.NewReader(data))
		require.NoError(tb, err)
		require.Equal(tb, [2]int{width, height}, [2]int{config.Width, config.Height})
		require.Equal(tb, "image/png", http.DetectContentType(data))
		require.Less(tb, len(data), 100<<10)
	}
}
