// Package await reads from a TCP connection without a buffer while it waits. A client that
// connects and says nothing then costs no buffer.
package await
