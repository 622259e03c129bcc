//go:build !unix

package edge

import "os/exec"

// killGroup does nothing: only the shell is killed.
func killGroup(*exec.Cmd) {}
