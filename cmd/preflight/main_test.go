package main

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// timeout fails a test that would otherwise hang. No test expects it to pass.
const timeout = 30 * time.Second

// programs are those that TestMain makes of this test binary. Tests run them by name.
var programs = map[string]func(){
	"preflight": main,
	"ask":       ask,
	"get":       get,
	"certs":     certs,
	"hash":      hash,
	"exitcode":  exitcode,
	"relayed":   relayed,
	"unlogged":  unlogged,
	"unread":    unread,
}

func TestMain(m *testing.M) { testscript.Main(m, programs) }

// TestScripts runs testdata/*.txt: each behaviour, flag and error of the command. The file
// script_test.go has the commands that the scripts use besides those of testscript.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[processes{}] = make(map[string]*process)
			env.Values[gates{}] = make(map[string]net.Listener)
			path, err := exec.LookPath("preflight")
			if err != nil {
				return err
			}
			env.Setenv("PREFLIGHT", path)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each program takes a second to end
			return nil
		},
		Cmds: commands,
	})
}

// commands are those of the scripts, besides the commands of testscript.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"start":  start,
	"signal": sendSignal,
	"ended":  ended,
	"logged": logged,
	"server": server_,
	"free":   free,
	"expand": expand,
	"gate":   gate,
	"open":   open,
}
