// Package peers tests the WebSocket carrier against implementations of others:
// gorilla/websocket, coder/websocket, and ws of Node.js, which is strict. Each is a client
// of a PreflightListener and a server of a PreflightDialer, directly and through nginx.
// They know WebSocket, and the capsules of the description of the protocol; they share no
// code with the library.
//
//	go test -race -run 'Client/node/nginx/late' .
package peers

import (
	"os"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }
