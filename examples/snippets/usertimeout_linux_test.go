package snippets_test

import (
	"fmt"
	"log"
	"net"
	"syscall"
	"time"

	"github.com/preflight-go/preflight"
)

// gRPC detects a dead peer by TCP_USER_TIMEOUT, which it sets only on a bare
// *net.TCPConn. Under a tunnel, set it with the Control function of a net.Dialer.
func Example_userTimeout() {
	ln := &preflight.PreflightListener{Listener: listen()}
	defer ln.Close()
	go ln.Accept()

	const tcpUserTimeout = 0x12 // unix.TCP_USER_TIMEOUT of golang.org/x/sys
	timeout := 20 * time.Second
	d := &preflight.PreflightDialer{NetDialer: &net.Dialer{
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(timeout.Milliseconds()))
			}); e != nil {
				return e
			}
			return err
		},
	}}
	conn, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	socket, err := conn.(*preflight.Conn).NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	socket.Control(func(fd uintptr) {
		ms, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
		fmt.Println(ms, "ms", err)
	})
	// Output: 20000 ms <nil>
}
