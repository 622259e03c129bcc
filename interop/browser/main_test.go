// Package browser tests what web pages can do, and what they cannot do, in a real Chromium:
// the page of examples/browser, and pages of other origins.
//
//	go test -run Page -update ./interop/browser    # makes docs/browser.png anew
package browser

import (
	"context"
	"flag"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/browser.png anew")

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// startChromium runs Chromium until the end of the test. Every name below "example", which is
// reserved (RFC 2606), leads to this machine. The context is for openTab.
func startChromium(t *testing.T) (browser context.Context) {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(lab.FindBinary(t, "chromium")),
		chromedp.WSURLReadTimeout(lab.Timeout),
		chromedp.DisableGPU,
		chromedp.Flag("host-resolver-rules", "MAP *.example 127.0.0.1"),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // the sandbox does not work for root
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	browser, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		defer cancel()
		ctx, cancel := context.WithTimeout(browser, lab.Timeout)
		defer cancel()
		require.NoError(t, chromedp.Cancel(ctx)) // waits for the process
	})
	require.NoError(t, chromedp.Do(browser))
	return browser
}

// A tab is a tab of Chromium.
type tab struct {
	*testing.T
	ctx context.Context

	mu      sync.Mutex
	console []string // messages and uncaught exceptions
}

// openTab opens a page in a new tab with a profile of its own.
func openTab(t *testing.T, browser context.Context, url string) *tab {
	t.Helper()
	tb := &tab{T: t}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(tb.record))
	t.Cleanup(cancel)
	tb.ctx = ctx
	require.NoError(t, chromedp.Do(ctx)) // the tab lives as long as the context of this call
	tb.do(chromedp.Navigate(url))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the console of ", url, ":\n", tb.messages())
		}
	})
	return tb
}

func (tb *tab) record(event any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		tb.console = append(tb.console, e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		tb.console = append(tb.console, e.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		for _, argument := range e.Args {
			tb.console = append(tb.console, string(argument.Value))
		}
	}
}

// messages returns what the page and the browser have written to the console.
func (tb *tab) messages() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return strings.Join(tb.console, "\n")
}

// do runs actions, all of which must succeed in time.
func (tb *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, lab.Timeout)
	defer cancel()
	require.NoError(tb, chromedp.Do(ctx, actions...))
}

// evaluate returns the value of an expression of JavaScript, or of the promise that it is.
func evaluate[V any](tb *tab, expression string) V {
	tb.Helper()
	return get(tb, chromedp.Evaluate[V](expression, chromedp.EvalAwaitPromise))
}

func get[V any](tb *tab, action chromedp.Action[V]) V {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, lab.Timeout)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	require.NoError(tb, err)
	return value
}

// wait waits until an expression of JavaScript is true in the page.
func (tb *tab) wait(expression string) {
	tb.Helper()
	poll := chromedp.Poll[bool](expression, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(0))
	ctx, cancel := context.WithTimeout(tb.ctx, lab.Timeout)
	defer cancel()
	if _, err := chromedp.Run(ctx, poll); err != nil {
		require.FailNow(tb, "this did not happen: "+expression, "%v\n%s", err, evaluate[string](tb, "document.body.innerText"))
	}
}

// press types keys into the element that has the focus.
func (tb *tab) press(keys string) {
	tb.Helper()
	tb.do(chromedp.KeyEvent(keys))
}
