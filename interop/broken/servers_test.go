package broken

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/preflight-go/preflight"
	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// startServers starts what stands behind the proxies, and adds the address of each to k.
func startServers(t *testing.T, k *kit) {
	certificate, err := tls.LoadX509KeyPair(k.file("good.crt"), k.file("good.key"))
	require.NoError(t, err)
	served := &tls.Config{Certificates: []tls.Certificate{certificate}}
	echo := func(c *preflight.Conn) { io.Copy(c, c) }

	// Listeners that work, and those that refuse.
	for name, l := range map[string]*preflight.PreflightListener{
		"good":     {},
		"strict":   {RequireUpgrade: true},
		"trusting": {RequireUpgrade: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, ClientAddrHeader: "X-Forwarded-For"},
		"401":      {Authorize: refuse(http.StatusUnauthorized)},
		"403":      {Authorize: refuse(http.StatusForbidden)},
		"429":      {Authorize: refuse(http.StatusTooManyRequests)},
		"guarded": {Authorize: func(r *http.Request) (http.Header, error) {
			if r.Header.Get("Authorization") == "" {
				return nil, &preflight.StatusError{StatusCode: http.StatusUnauthorized}
			}
			return nil, nil
		}},
		"panics":   {Authorize: func(*http.Request) (http.Header, error) { panic("a fault of the application") }},
		"other":    {Protocols: []string{"other"}},
		"unframed": {Carriers: []preflight.Carrier{preflight.CarrierUpgrade}},
		"narrow":   {MaxHeaderBytes: 1024},
		"tls":      {Listener: tls.NewListener(lab.Listen(t), served)},
	} {
		k.servers[name] = lab.Serve(t, l, echo)
	}

	// Ordinary programs.
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>Welcome</html>") })
	mounted := http.NewServeMux()
	mounted.Handle("/elsewhere/", &preflight.PreflightListener{})
	hidden := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		new(preflight.PreflightListener).ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	})
	k.servers["page"] = serveHTTP(t, lab.Listen(t), page)
	k.servers["denying"] = serveHTTP(t, lab.Listen(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	k.servers["mux"] = serveHTTP(t, lab.Listen(t), mounted)
	k.servers["hidden"] = serveHTTP(t, lab.Listen(t), hidden)
	k.servers["draining"] = serveHTTP(t, lab.Listen(t), draining(t))
	k.servers["https"] = serveHTTP(t, tls.NewListener(lab.Listen(t), served), page)
	named := served.Clone() // it refuses a client that sends no name
	named.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == "" {
			return nil, errors.New("no name")
		}
		return nil, nil
	}
	k.servers["sni"] = lab.Serve(t, &preflight.PreflightListener{Listener: tls.NewListener(lab.Listen(t), named)}, echo)
	to := &url.URL{Scheme: "http", Host: k.servers["strict"]}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	k.servers["timeout"] = serveHTTP(t, lab.Listen(t), http.TimeoutHandler(proxy, lab.Timeout, ""))
	lonely := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: refusingAddress(t)})
	lonely.ErrorLog = proxy.ErrorLog
	k.servers["lonely"] = serveHTTP(t, lab.Listen(t), lonely)
	k.servers["relay"] = serveHTTP(t, lab.Listen(t), httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: k.servers["good"]}))
	grpc := lab.Listen(t)
	k.servers["grpc"] = grpc.Addr().String()
	lab.ServeGRPC(t, "", grpc)
	k.servers["ssh"], k.servers["redis"], k.servers["nats"] = startSSHD(t, k), startRedis(t), startNATS(t)
	k.servers["mariadb"] = startMariaDB(t)

	// Addresses that do not answer.
	silent := lab.Listen(t) // nobody accepts: the kernel does, and nothing answers
	k.servers["silent"] = silent.Addr().String()
	k.servers["closing"] = serveRaw(t, func(c net.Conn) { io.ReadFull(c, make([]byte, 16)) }) // ends by a reset, because it has not read all
	k.servers["ending"] = serveRaw(t, func(c net.Conn) { c.Read(make([]byte, 64<<10)) })
	k.servers["hole"] = blackHole(t)
	k.servers["down"] = refusingAddress(t)
}

// refuse returns an Authorize that always refuses.
func refuse(status int) func(*http.Request) (http.Header, error) {
	return func(*http.Request) (http.Header, error) {
		e := &preflight.StatusError{StatusCode: status}
		if status == http.StatusTooManyRequests {
			e.Header = http.Header{"Retry-After": {"7"}}
		}
		return nil, e
	}
}

// draining returns a handler that is a listener which is shutting down. One tunnel is open
// until the end of the test, so that Shutdown waits.
func draining(t *testing.T) http.Handler {
	t.Helper()
	l := new(preflight.PreflightListener)
	address := serveHTTP(t, lab.Listen(t), l)
	open := lab.Frontend{Address: address}.Dial(t, "/")
	inside, err := l.Accept()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		l.Shutdown(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
		inside.Close()
		open.Close()
		l.Close()
	})
	_, err = l.Accept() // fails as soon as Shutdown has begun
	require.Error(t, err)
	return l
}

func serveHTTP(t *testing.T, l net.Listener, h http.Handler) (address string) {
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	lab.RunServer(t, func() { server.Serve(l) }, server.Close)
	return l.Addr().String()
}

// serveRaw runs a server that calls handle for each connection, and then closes it.
func serveRaw(t *testing.T, handle func(net.Conn)) (address string) {
	l := lab.Listen(t)
	lab.RunServer(t, func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				handle(c)
				c.Close()
			}
		}
	}, l.Close)
	return l.Addr().String()
}

// blackHole returns an address that drops what is sent to it, because the queue of its
// connections is full.
func blackHole(t *testing.T) string {
	t.Helper()
	address := socketAddress(t, func(fd int) error { return syscall.Listen(fd, 0) })
	for {
		c, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { c.Close() })
	}
}

// refusingAddress returns an address that refuses connections until the end of the test: a
// socket has it that does not listen.
func refusingAddress(t *testing.T) string {
	t.Helper()
	return socketAddress(t, func(int) error { return nil })
}

// socketAddress returns the address of a new socket, with which prepare does something.
func socketAddress(t *testing.T, prepare func(fd int) error) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, prepare(fd))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}).String()
}

func startRedis(t *testing.T) (address string) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return []string{
			"redis-server", "--bind", "127.0.0.1", "--port", lab.Port(addresses[0]), "--unixsocket", socket,
			"--dir", dir, "--save", "", "--appendonly", "no",
		}
	}, func() bool { return lab.AcceptUnix(socket) }).Addresses[0] // it has bound its port by then
}

func startNATS(t *testing.T) (address string) {
	dir := t.TempDir()
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return []string{"nats-server", "--addr", "127.0.0.1", "--port", lab.Port(addresses[0])}
	}, func() bool { return lab.HasLogged(t, dir, "Server is ready") }).Addresses[0]
}

func startMariaDB(t *testing.T) (address string) {
	dir := t.TempDir()
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "s")
	var user []string
	if os.Geteuid() == 0 {
		user = []string{"--user=root"}
	}
	lab.RunCommand(t, append([]string{"mariadb-install-db",
		"--no-defaults", "--datadir=" + data, "--skip-test-db", "--auth-root-authentication-method=normal"}, user...)...)
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return append([]string{"mariadbd",
			"--no-defaults", "--datadir=" + data, "--socket=" + socket, "--pid-file=" + filepath.Join(dir, "pid"),
			"--bind-address=127.0.0.1", "--port=" + lab.Port(addresses[0]), "--skip-name-resolve",
			"--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"}, user...)
	}, func() bool { return lab.AcceptUnix(socket) }).Addresses[0]
}

// startSSHD runs OpenSSH's server. Who runs the tests may log in with the key of the file
// ssh-user in the folder of the certificates.
func startSSHD(t *testing.T, k *kit) (address string) {
	dir := t.TempDir()
	writeSSHKey(t, k.dir, "ssh-host")
	user := writeSSHKey(t, k.dir, "ssh-user")
	authorized, pid := lab.WriteFile(t, dir, "authorized", string(ssh.MarshalAuthorizedKey(user))), filepath.Join(dir, "pid")
	if os.Geteuid() == 0 {
		// sshd does not run as root without this folder, which its service makes.
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	return lab.StartDaemon(t, dir, 1, func(addresses []string) (command []string) {
		return []string{
			"sshd", "-D", "-e", "-f", "none", "-o", "ListenAddress=" + addresses[0], "-o", "HostKey=" + k.file("ssh-host"), "-o", "PidFile=" + pid,
			"-o", "AuthorizedKeysFile=" + authorized, "-o", "StrictModes=no", "-o", "PermitRootLogin=prohibit-password",
		}
	}, func() bool {
		_, err := os.Stat(pid) // sshd writes it when it has bound its port
		return err == nil
	}).Addresses[0]
}

// writeSSHKey creates a key, and writes it to a file in OpenSSH's format.
func writeSSHKey(t *testing.T, dir, file string) ssh.PublicKey {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600)) // OpenSSH accepts no other mode
	shown, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	return shown
}
