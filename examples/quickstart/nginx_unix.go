//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// withoutCtrlC keeps the terminal's Ctrl-C, which goes to the whole process
// group, from the command: it has to outlive the last messages.
func withoutCtrlC(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
