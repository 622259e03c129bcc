// Package address reads the addresses that the flags take, and says which of them stay on
// this machine.
package address

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
)

// An Address is a TCP address, the path of a Unix socket, or a socket that systemd has
// opened.
type Address struct {
	Network string // tcp, unix or systemd
	Address string // of package net; of systemd the name of the socket
}

const (
	unix    = "unix"
	systemd = "systemd"
)

// Parse reads HOST:PORT, :PORT and unix:PATH. The scheme systemd is only for listening.
func Parse(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, unix+":"); ok {
		if path == "" {
			return Address{}, errors.New("unix: needs the path of a socket")
		}
		return Address{unix, path}, nil
	}
	if name, ok := strings.CutPrefix(s, systemd+":"); ok {
		return Address{systemd, name}, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%q is no address: want HOST:PORT, [IPV6]:PORT or unix:PATH", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return Address{}, fmt.Errorf("the port of %q is not a number from 0 to 65535", s)
	}
	return Address{"tcp", s}, nil
}

// UnmarshalText implements [encoding.TextUnmarshaler] for flags.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a, err = Parse(string(text))
	return err
}

// String returns what Parse has read.
func (a Address) String() string {
	if a.Network == "tcp" {
		return a.Address
	}
	return a.Network + ":" + a.Address
}

// Local reports whether only this machine can reach the address: a Unix socket, or an address
// of the loopback interface. A name other than localhost may lead anywhere, and the unit of a
// systemd socket says where that is.
func (a Address) Local() bool {
	if a.Network != "tcp" {
		return a.Network == unix || a.Network == systemd
	}
	host, _, _ := net.SplitHostPort(a.Address)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Port returns the port of a TCP address, and 0 for others.
func (a Address) Port() uint16 {
	if a.Network != "tcp" {
		return 0
	}
	_, text, _ := net.SplitHostPort(a.Address)
	port, _ := strconv.ParseUint(text, 10, 16) // as Parse requires
	return uint16(port)
}

// Socket returns the path of a Unix socket, and "" for others.
func (a Address) Socket() string {
	if a.Network != unix {
		return ""
	}
	return a.Address
}

// CheckTarget reports whether the address can be dialed.
func (a Address) CheckTarget() error {
	if a.Network == systemd {
		return errors.New("systemd: is for --listen only")
	}
	if host, port, _ := net.SplitHostPort(a.Address); a.Network == "tcp" && (host == "" || port == "0") {
		return fmt.Errorf("%q needs a host and a port", a.Address)
	}
	return nil
}

// Listen opens the address. A file that is left of a Unix socket is replaced if nothing
// listens there. With reuse, other processes of the same user can listen at the same TCP
// address; for other sockets it has no meaning.
func (a Address) Listen(reuse bool) (net.Listener, error) {
	var config net.ListenConfig
	switch a.Network {
	case systemd:
		return fromSystemd(a.Address)
	case unix:
		if err := removeStale(a.Address); err != nil {
			return nil, err
		}
	default:
		if reuse {
			config.Control = reusePort
		}
	}
	return config.Listen(context.Background(), a.Network, a.Address)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket", path)
	}
	c, err := net.Dial(unix, path)
	if err == nil {
		c.Close()
		return fmt.Errorf("something listens at %s already", path)
	}
	return os.Remove(path)
}

// systemdSockets are the sockets that systemd has passed. They can be asked for only once: the
// call clears the environment, so that child processes do not take them for theirs.
var systemdSockets = sync.OnceValue(func() []*os.File { return activation.Files(true) })

// fromSystemd returns the socket with the name of its unit file (FileDescriptorName=), or the
// only one.
func fromSystemd(name string) (net.Listener, error) {
	var found []*os.File
	for _, f := range systemdSockets() {
		if name == "" || f.Name() == name {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("systemd has passed %d sockets named %q, and one is needed", len(found), name)
	}
	l, err := net.FileListener(found[0]) // a duplicate, so that the socket can be opened again
	if err != nil {
		return nil, fmt.Errorf("the socket %q of systemd: %w", name, err)
	}
	return l, nil
}
