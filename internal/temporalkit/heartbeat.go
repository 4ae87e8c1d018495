package temporalkit

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
)

// HeartbeatEvery is how often an activity beats. With HeartbeatTimeout 8 s it takes three lost beats to be taken over.
const HeartbeatEvery = 2 * time.Second

// Pump records a heartbeat with details() every interval until stop is called or ctx ends. ctx must be the activity's own context, not one
// derived from it by an errgroup: a throttled heartbeat keeps it. details is called from another goroutine and returns the state that the
// next attempt goes on from; a nil details beats without any, which makes the next attempt find none. stop waits until the pump has ended and
// may be called more than once.
func Pump(ctx context.Context, every time.Duration, details func() any) (stop func()) {
	if every <= 0 {
		every = HeartbeatEvery
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
				if details == nil {
					activity.RecordHeartbeat(ctx)
				} else {
					activity.RecordHeartbeat(ctx, details())
				}
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(done) })
		<-gone
	}
}
