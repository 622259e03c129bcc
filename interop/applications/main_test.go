// Package applications runs applications that know nothing of preflight through real
// proxies: gRPC, HTTP, databases, message brokers and SSH. It also tests how their
// drivers use a dialer, and how servers shut down together with a listener.
//
//	go test -race -run 'App/postgres/nginx-tls/Copy' .
package applications

import (
	"os"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
)

// programs is a folder for the programs that the tests build.
var programs string

func TestMain(m *testing.M) {
	runChild()
	var err error
	if programs, err = os.MkdirTemp("", "preflight-interop-"); err != nil {
		panic(err)
	}
	code := lab.Run(m)
	os.RemoveAll(programs)
	os.Exit(code)
}
