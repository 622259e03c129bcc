package check

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// askFar asks the far end what has arrived. There is one if `preflight check --listen` stands
// in place of the server, or if serve has --echo.
func (c *checker) askFar(ctx context.Context) *farReport {
	a := c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "report", wantField+": "+wantsReport+"\r\n"))
	if !a.is(200) {
		return nil
	}
	r := new(farReport)
	if json.Unmarshal(a.body, r) != nil || !r.FarEnd {
		return nil
	}
	return r
}

// A FarView is what the far end saw of the check.
type FarView struct {
	Request   Arrival  `json:"request"` // of the main carrier, or of another question
	Added     []string `json:"added"`   // the names of the fields that proxies add
	Removed   []string `json:"removed"` // of those that they remove
	Rewritten string   `json:"rewritten,omitempty"`
	Replayed  bool     `json:"replayed"` // a request that got no answer was sent again
}

// look compares what arrived with what was sent.
func (c *checker) look(ctx context.Context) {
	if c.e.far = c.askFar(ctx); c.e.far == nil {
		return
	}
	c.on(ctx, c.dialHTTP, c.request(c.Dialer.Path, c.host(), "replay", wantField+": "+wantsNoWord+"\r\n"))
	if again := c.askFar(ctx); again != nil {
		c.e.far = again
	}
	v := new(FarView)
	replays := 0
	for _, a := range c.e.far.Arrivals {
		if a.Question == string(c.Wanted[0]) || v.Request.Method == "" {
			v.Request = a
		}
		if a.Question == "replay" {
			replays++
		}
	}
	v.Replayed = replays > 1
	sent := []string{"Host", "Connection", "Upgrade", idField}
	if v.Request.Question == webSocket {
		sent = append(sent, "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Preflight-Framing")
	}
	for name := range c.header {
		sent = append(sent, name)
	}
	for _, name := range v.Request.Fields {
		if !slices.Contains(sent, name) && !strings.HasPrefix(name, "Preflight-") {
			v.Added = append(v.Added, name)
		}
	}
	for _, name := range sent {
		if !slices.Contains(v.Request.Fields, name) {
			v.Removed = append(v.Removed, name)
		}
	}
	slices.Sort(v.Removed)
	if path := c.e.path(); v.Request.Path != path {
		v.Rewritten = fmt.Sprintf("%s arrives as %s", path, v.Request.Path)
	}
	c.e.farView = v
}
