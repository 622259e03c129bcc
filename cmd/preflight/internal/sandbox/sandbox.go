// Package sandbox gives up what a running command does not need, by Landlock on Linux.
package sandbox

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// system is what the resolver, the roots of TLS and the time zones are read from.
var system = []string{"/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve"}

// systemFiles are read again while the program runs: the resolver looks every 5 seconds whether its
// files have changed. On some systems they are links to other folders, such as
// /run/NetworkManager, or /nix/store.
var systemFiles = []string{
	"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf",
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
}

// Needs are what a command still needs after it has begun to listen.
type Needs struct {
	Files   []string // that are read again; "" is none
	Sockets []string // Unix sockets that are removed in the end
	Ports   []uint16 // TCP ports that are dialed, beside that of DNS; nil: all
}

const dns = 53

// Works reports whether Enter can restrict anything on this system.
const Works = runtime.GOOS == "linux"

// Enter restricts this process and its children for good. They can then read only the
// folders of the files and of the system, and write nothing. With Ports, they can open TCP
// connections to these alone; Landlock leaves UDP and Multipath TCP out. A kernel that knows
// less of Landlock restricts less, and other systems restrict nothing.
func (n Needs) Enter() error {
	var rules []landlock.Rule
	for _, dir := range append(n.folders(), system...) {
		rules = append(rules, landlock.RODirs(dir).IgnoreIfMissing())
	}
	rules = append(rules, landlock.ROFiles("/dev/null").IgnoreIfMissing())
	for _, socket := range n.Sockets {
		rules = append(rules, landlock.PathAccess(syscall.AccessFSRemoveFile, filepath.Dir(socket)))
	}
	// Version 5 knows files and TCP. What came later would also restrict abstract sockets
	// and signals between processes, which this program has no reason to forbid.
	config := landlock.V5.BestEffort()
	if n.Ports == nil {
		return config.RestrictPaths(rules...)
	}
	for _, port := range append(n.Ports, dns) {
		rules = append(rules, landlock.ConnectTCP(port))
	}
	return config.Restrict(rules...)
}

// folders returns the folders of the files. They are needed because a file is often replaced
// by another of the same name. If a file is a link, its target counts too.
func (n Needs) folders() (dirs []string) {
	for _, file := range slices.Concat(n.Files, systemFiles, []string{os.Getenv("SSL_CERT_FILE")}) {
		if file == "" {
			continue
		}
		dirs = append(dirs, filepath.Dir(file))
		if target, err := filepath.EvalSymlinks(file); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	if dir := os.Getenv("SSL_CERT_DIR"); dir != "" {
		dirs = append(dirs, filepath.SplitList(dir)...)
	}
	return dirs
}
