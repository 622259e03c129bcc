package preflight

import "io"

// A head of up to firstRead bytes that arrives in one segment costs one Read; it
// is also what a peer that stalls in its head can hold. A longer head gets room
// for secondRead bytes, and then for twice what has come.
const (
	firstRead  = 512
	secondRead = 4 << 10
)

// consume takes the first n bytes off the buffer, and leaves it its room.
func (x *exchange) consume(n int) { x.buf = append(x.buf[:0], x.buf[n:]...) }

// grow makes room for size bytes in all.
//
//go:noinline
func (x *exchange) grow(size int) {
	if size > cap(x.buf) {
		x.buf = append(make([]byte, 0, size), x.buf...)
	}
}

// read reads more, until limit bytes have been read in all.
func (x *exchange) read(limit int) error {
	room := limit - int(x.consumed) - len(x.buf)
	if len(x.buf) == cap(x.buf) {
		// As much again as has come, and no more: a limit may be large, and a
		// client that stalls must not hold all of it for the bytes of a part.
		x.grow(max(secondRead, len(x.buf)+min(len(x.buf), room)))
	}
	free := x.buf[len(x.buf):cap(x.buf)]
	free = free[:min(len(free), room)]
	// A transport may return nothing without an error, but not for ever.
	for range 100 {
		n, err := x.conn.Read(free)
		if n > 0 {
			x.buf = x.buf[:len(x.buf)+n]
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}
