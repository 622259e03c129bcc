package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/preflight-go/preflight"
	"golang.org/x/crypto/bcrypt"
)

// Tokens are the names of bearer tokens, by their hashes. A lookup by a hash takes the same
// time for tokens that are nearly right.
type Tokens map[[sha256.Size]byte]string

// minToken is the least length of a token. It keeps words that people think of out.
const minToken = 16

// LoadTokens reads a file with a name and a token in each line.
func LoadTokens(file string) (Tokens, error) {
	tokens := make(Tokens)
	err := eachLine(file, func(line string) error {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			return errors.New("want a name, a space and a token")
		}
		if len(fields[1]) < minToken {
			return fmt.Errorf("the token is shorter than %d characters; `openssl rand -hex 32` prints a good one", minToken)
		}
		hash := sha256.Sum256([]byte(fields[1]))
		if _, ok := tokens[hash]; ok {
			return errors.New("the token is there twice")
		}
		tokens[hash] = fields[0]
		return nil
	})
	if err == nil && len(tokens) == 0 {
		err = fmt.Errorf("%s has no tokens", file)
	}
	return tokens, err
}

func (t Tokens) find(token string) (name string, ok bool) {
	name, ok = t[sha256.Sum256([]byte(token))]
	return name, ok
}

// Users are the users of an htpasswd file.
type Users struct {
	hashes map[string][]byte
	decoy  []byte // compared for a name that does not exist, which takes as long

	mu    sync.Mutex
	known map[string][sha256.Size]byte // the password that was right last, by name
}

// comparing bounds the work: bcrypt takes much of it on purpose, and anybody can ask.
var comparing = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// LoadUsers reads a file that htpasswd -B has written.
func LoadUsers(file string) (*Users, error) {
	u := &Users{hashes: make(map[string][]byte), known: make(map[string][sha256.Size]byte)}
	err := eachLine(file, func(line string) error {
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return errors.New("want NAME:HASH")
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return errors.New("the hash is not of bcrypt; `htpasswd -B` makes one")
		}
		if _, ok := u.hashes[name]; ok {
			return errors.New("the name is there twice")
		}
		u.hashes[name] = []byte(hash)
		u.decoy = []byte(hash)
		return nil
	})
	if err == nil && len(u.hashes) == 0 {
		err = fmt.Errorf("%s has no users", file)
	}
	return u, err
}

// verify reports whether the password is right. It remembers the last right one of each user,
// so that clients that dial often do not cost a hash each time.
func (u *Users) verify(ctx context.Context, name, password string) (bool, error) {
	sum := sha256.Sum256([]byte(password))
	u.mu.Lock()
	known, ok := u.known[name]
	u.mu.Unlock()
	if ok && subtle.ConstantTimeCompare(known[:], sum[:]) == 1 {
		return true, nil
	}
	select {
	case comparing <- struct{}{}:
		defer func() { <-comparing }()
	case <-ctx.Done():
		return false, &preflight.StatusError{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"1"}}, Body: []byte("too many passwords are being checked\n")}
	}
	hash, exists := u.hashes[name]
	if !exists {
		hash = u.decoy
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !exists {
		return false, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.known[name] = sum
	return true, nil
}

// eachLine calls read for each line of a file that is neither empty nor a comment. An error
// names the line, and nothing that is in it.
func eachLine(file string, read func(line string) error) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := read(line); err != nil {
			return fmt.Errorf("%s, line %d: %w", file, number, err)
		}
	}
	return nil
}
