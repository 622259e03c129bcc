//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// withoutCtrlC keeps the Ctrl-C of the terminal from the command. The terminal sends it to the
// whole process group, but the command must still run for the last messages.
func withoutCtrlC(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
