// Package peers tests the WebSocket carrier against other implementations of WebSocket:
// gorilla/websocket, coder/websocket, and ws of Node.js, which is strict. Each of them is a
// client of a PreflightListener and a server of a PreflightDialer, directly and through
// nginx. The code for capsules follows the description of the protocol. It shares no code
// with the library.
//
//	go test -race -run 'Client/node/nginx/late' .
package peers

import (
	"os"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }
