package preflight

// A head of up to firstRead bytes that arrives in one segment costs one Read.
// firstRead is also the most that a peer which stalls in its head can make us hold.
// A longer head gets room for secondRead bytes, and then for twice what has
// arrived.
const (
	firstRead  = 512
	secondRead = 4 << 10
)

// A buffer holds what a handshake has read and not yet consumed.
type buffer struct {
	buf   []byte
	first [firstRead]byte // the first array of buf
}

// consume removes the first n bytes. The buffer keeps its capacity.
func (b *buffer) consume(n int) { b.buf = append(b.buf[:0], b.buf[n:]...) }

// grow makes the capacity at least size.
//
//go:noinline
func (b *buffer) grow(size int) {
	if size > cap(b.buf) {
		b.buf = append(make([]byte, 0, size), b.buf...)
	}
}

// room returns the free space behind the bytes in the buffer, which may hold up to
// limit bytes. It grows a buffer that is full.
func (b *buffer) room(limit int) []byte {
	left := limit - len(b.buf)
	if len(b.buf) == cap(b.buf) {
		// Double it, and no more. The limit may be large, and a client that
		// stalls must not hold all of it for the few bytes that it has sent.
		b.grow(max(secondRead, len(b.buf)+min(len(b.buf), left)))
	}
	free := b.buf[len(b.buf):cap(b.buf)]
	return free[:min(len(free), left)]
}
