//go:build unix

package edge

import (
	"os"
	"os/exec"
	"syscall"
)

// killGroup makes the end of the context of cmd kill its children too: otherwise each command that
// hangs would leave a process. On a terminal only the shell is killed. A process group of its own
// could not ask the user there for a password.
func killGroup(cmd *exec.Cmd) {
	if terminal, err := os.Open("/dev/tty"); err == nil {
		terminal.Close()
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
