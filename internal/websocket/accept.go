package websocket

import (
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
)

// KeyLen is the length of a Sec-WebSocket-Key: 16 bytes in base64.
const KeyLen = 24

// guid is what RFC 6455 §1.3 appends to the key.
const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// NewKey returns a new random Sec-WebSocket-Key.
func NewKey() string {
	var nonce [16]byte
	rand.Read(nonce[:])
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// ValidKey reports whether key is 16 bytes in base64, as RFC 6455 §4.2.1
// requires.
func ValidKey(key string) bool {
	if len(key) != KeyLen {
		return false
	}
	var nonce [KeyLen]byte
	n, err := base64.StdEncoding.Decode(nonce[:], []byte(key))
	return n == 16 && err == nil
}

// Accept returns the Sec-WebSocket-Accept that answers key (RFC 6455 §4.2.2).
func Accept(key string) string {
	var sum [sha1.Size]byte
	input := append(append(make([]byte, 0, KeyLen+len(guid)), key...), guid...)
	// The hash proves that the server speaks WebSocket. It protects nothing, so
	// SHA-1 is used here even where FIPS 140 forbids it.
	fips140.WithoutEnforcement(func() { sum = sha1.Sum(input) })
	return base64.StdEncoding.EncodeToString(sum[:])
}
