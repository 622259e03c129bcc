//go:build !unix

package main

import "os/exec"

// withoutCtrlC does nothing on systems without process groups.
func withoutCtrlC(*exec.Cmd) {}
