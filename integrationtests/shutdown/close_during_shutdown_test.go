package shutdown_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/preflight-go/preflight/internal/testkit"
	"github.com/stretchr/testify/require"
)

// While Shutdown waits, Close does not cut anything off. Servers call Close
// when they are told to stop. Pending handshakes get their answer, requests of
// Handler get theirs, and Shutdown completes. The last Shutdown then does the
// work of Close.
func TestListenerCloseDuringShutdown(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, closes := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, nil)
			p := s.Deliver(t, testkit.Kinds[1])
			half, silent := s.Direct.Dial(t), s.Direct.Dial(t)
			half.Send(t, testkit.Request()[:30])
			secure := s.Direct.Dial(t)
			secure.Send(t, testkit.SceneHello)
			held := s.Direct.Dial(t).Ask(testkit.Held)
			waiting := s.Direct.Dial(t).Ask(testkit.Request("Wait: yes"))
			synctest.Wait()
			done := s.BeginShutdown(t.Context())
			for range closes {
				require.NoError(t, s.Close())
			}
			time.Sleep(time.Second)
			synctest.Wait()
			require.Empty(t, done)
			for _, c := range []*testkit.Client{half, silent, secure} {
				require.False(t, c.Server.Closed.Load(), "Close has cut it off")
			}
			require.Empty(t, held)
			require.Empty(t, waiting, "the context of Authorize has ended")
			half.Send(t, testkit.Request()[30:])
			require.Equal(t, http.StatusServiceUnavailable, half.Refused(t, testkit.Request()).StatusCode)
			close(s.Release)
			require.Equal(t, "held, and let go", (<-held).Text)
			p.Talks(t)
			p.Close()
			require.NoError(t, <-done)
			require.Equal(t, 403, (<-waiting).StatusCode, "at the end of its HandshakeTimeout")
		})
	}
}

// Of two Shutdowns, the one that ends first leaves the rest to the other, even
// if Close was called in the meantime.
func TestListenerCloseDuringTwoShutdowns(t *testing.T) {
	certs := testkit.NewCerts(t)
	synctest.Test(t, func(t *testing.T) {
		s := testkit.NewScene(t, certs, nil)
		half := s.Direct.Dial(t)
		s.Start(t)
		half.Send(t, testkit.Request()[:30])
		short, cancel := contextFor(t, time.Second)
		defer cancel()
		first, second := s.BeginShutdown(short), s.BeginShutdown(t.Context())
		require.NoError(t, s.Close())
		require.Error(t, <-first)
		synctest.Wait()
		require.Empty(t, second)
		require.False(t, half.Server.Closed.Load(), "the second waits for it")
		half.Send(t, testkit.Request()[30:])
		require.Equal(t, http.StatusServiceUnavailable, half.Refused(t, testkit.Request()).StatusCode)
		require.NoError(t, <-second)
	})
}

// If Shutdown gives up, Close takes effect.
func TestListenerCloseAfterShutdownGaveUp(t *testing.T) {
	certs := testkit.NewCerts(t)
	for _, before := range []bool{false, true} { // whether Close is called before Shutdown gives up
		synctest.Test(t, func(t *testing.T) {
			s := testkit.NewScene(t, certs, nil)
			s.Start(t)
			half := s.Direct.Dial(t)
			half.Send(t, testkit.Request()[:30])
			short, cancel := contextFor(t, time.Second)
			defer cancel()
			done := s.BeginShutdown(short)
			if before {
				require.NoError(t, s.Close())
				require.False(t, half.Server.Closed.Load())
			}
			require.Error(t, <-done)
			if !before {
				synctest.Wait()
				require.False(t, half.Server.Closed.Load())
				require.NoError(t, s.Close())
			}
			synctest.Wait()
			require.True(t, half.Server.Closed.Load())
		})
	}
}
