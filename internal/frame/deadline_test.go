package frame

import (
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
)

// setWallClock returns the current time as it is after somebody has set the wall clock forward by
// d. Package time has no way to make such a time.
func setWallClock(d time.Duration) time.Time {
	now := time.Now().Add(d)
	fields := (*struct {
		wall      uint64
		monotonic int64
		location  *time.Location
	})(unsafe.Pointer(&now))
	fields.monotonic -= int64(d)
	return now
}

// A deadline without a monotonic reading expires on time, also if the wall clock was set after the
// process has started.
func TestDeadlineAfterWallClockWasSet(t *testing.T) {
	for _, step := range []time.Duration{0, time.Hour, -time.Hour} {
		now := setWallClock(step)
		for _, wait := range []time.Duration{time.Minute, -time.Minute} {
			want := now.Sub(epoch) + wait
			assert.Equal(t, instant(want), newInstant(now.Add(wait), now))
			assert.Equal(t, instant(want), newInstant(now.Add(wait).UTC(), now), "wall clock set by %v", step)
		}
	}
}

// Deadlines that no Duration from epoch can express are never and always expired.
func TestExtremeDeadlines(t *testing.T) {
	check := func(t *testing.T) {
		a, _ := newLink(window)
		c := kind{}.above(a, Config{})
		for _, d := range []struct {
			deadline time.Time
			expired  bool
		}{
			{time.Time{}, false},
			{time.Now(), true},
			{time.Now().UTC(), true},
			{epoch, !time.Now().Before(epoch)}, // a bubble begins in the year 2000
			{time.Unix(0, 0), true},
			{time.Unix(-1<<40, 0), true},
			{time.Time{}.Add(1), true},
			{time.Now().Add(time.Hour), false},
			{time.Now().Round(0).Add(time.Hour), false},
			{time.Now().Add(1<<63 - 1), false},
			{time.Unix(1<<40, 0), false},
			{time.Unix(1<<62, 0), false},
		} {
			assert.NoError(t, c.SetReadDeadline(d.deadline))
			assert.Equal(t, d.expired, c.readExpired(), d.deadline)
			restored := c.readDeadline.time()
			assert.Equal(t, d.deadline.IsZero(), restored.IsZero(), d.deadline)
			assert.Equal(t, d.expired, !restored.IsZero() && time.Until(restored) <= 0, d.deadline)
		}
	}
	check(t)
	t.Run("in a bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			check(t)
		})
	})
}
