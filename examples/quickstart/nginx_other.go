//go:build !unix

package main

import "os/exec"

// withoutCtrlC has nothing to do where there are no process groups.
func withoutCtrlC(*exec.Cmd) {}
