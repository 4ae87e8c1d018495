package workflows

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

func TestSplit_AnyNumberOfApps_FillsTheLanesAndNoMore(t *testing.T) {
	for _, apps := range []int{1, 2, 7, 30, 49, 50, 51, 99, 120, 500, 1000, 1007, 2500, operation.MaxApps} {
		for _, atOnce := range []int{1, 2, 3, 10, 33, 50, 100, operation.MaxAppsAtOnce} {
			lanes, size := split(apps, atOnce)
			parallel := max(atOnce/lanes, 1)
			require.LessOrEqual(t, lanes*parallel, atOnce, "%d apps, %d at once", apps, atOnce)
			require.LessOrEqual(t, size, operation.AppsPerBatch)
			require.GreaterOrEqual(t, lanes, 1)
			batches := (apps + size - 1) / size
			// What may be under way at a time is close to what is wanted, as long as there are so many.
			under := min(parallel, batches) * min(lanes, size)
			require.GreaterOrEqual(t, 10*under, 7*min(atOnce, apps), "%d apps, %d at once: %d lanes, batches of %d", apps, atOnce, lanes, size)
		}
	}
	lanes, size := split(1000, 50)
	require.Equal(t, []int{2, 40}, []int{lanes, size})
}
