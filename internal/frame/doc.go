// Package frame is the net.Conn of a framed tunnel.
package frame
