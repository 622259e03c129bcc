package rates

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func address(t *testing.T, s string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(s)
	require.NoError(t, err)
	return a
}

func TestAllow(t *testing.T) {
	table, now := New(2, 3), time.Unix(1e9, 0)
	allowed := func(s string) bool {
		wait, ok := table.Allow(address(t, s), now)
		require.Equal(t, ok, wait == 0)
		return ok
	}
	for range 3 {
		require.True(t, allowed("192.0.2.1"))
	}
	for range 5 {
		require.False(t, allowed("192.0.2.1"), "what is refused costs nothing")
	}
	wait, _ := table.Allow(address(t, "::ffff:192.0.2.1"), now)
	require.Equal(t, time.Second/2, wait)
	require.True(t, allowed("192.0.2.2"))
	now = now.Add(time.Second / 2)
	require.True(t, allowed("192.0.2.1"))
	require.False(t, allowed("192.0.2.1"))
	for _, s := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::ffff:1%eth0"} {
		require.True(t, allowed(s))
	}
	require.False(t, allowed("2001:db8::4"), "of the same /64")
	require.True(t, allowed("2001:db8:0:1::4"))
}

// TestBounded has more addresses than the table remembers.
func TestBounded(t *testing.T) {
	table, now := New(1, 1), time.Unix(1e9, 0)
	first := address(t, "10.0.0.0")
	for a, i := first, 0; i < 3*maxAddresses; a, i = a.Next(), i+1 {
		_, ok := table.Allow(a, now)
		require.True(t, ok)
		require.LessOrEqual(t, len(table.young)+len(table.old), 2*maxAddresses)
		if i == 2*maxAddresses-2 {
			// What is still used is remembered.
			_, ok = table.Allow(a, now)
			require.False(t, ok)
		}
	}
	_, ok := table.Allow(first, now)
	require.True(t, ok, "forgotten")
}
