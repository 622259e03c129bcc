//go:build !linux

package relay

import "io"

// copyAll is io.Copy.
func copyAll(dst, src Conn) (int64, error) { return io.Copy(dst, src) }
