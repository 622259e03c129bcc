package wire

// A Watch inspects the bytes of a connection that was classified as plain, as long as they
// may still turn out to be HTTP.
type Watch struct {
	sniffer Sniffer
	verdict Verdict
	left    int // bytes still to be inspected
}

// Watch continues the inspection of s, for at most limit further bytes.
func (s *Sniffer) Watch(limit int) Watch { return Watch{sniffer: *s, left: limit} }

// Verdict returns [HTTP] or [Plain], or [More] as long as neither is certain.
func (w *Watch) Verdict() Verdict { return w.verdict }

// Inspect inspects the next bytes and returns the verdict. At the limit it is Plain.
func (w *Watch) Inspect(b []byte) Verdict {
	w.left -= len(b)
	if v := w.sniffer.Feed(b); v == Plain || v == HTTP {
		w.verdict = v
	} else if w.left <= 0 {
		w.verdict = Plain
	}
	return w.verdict
}
