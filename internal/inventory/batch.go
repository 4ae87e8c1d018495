package inventory

import (
	"fmt"
	"strconv"
	"strings"
)

// Batch is how many nodes may be worked on at once: a count or a share of the nodes.
type Batch struct {
	// Count of nodes, from 1; 0 when Percent is set.
	Count int
	// Percent of all nodes of the operation, from 1 to 100; 0 when Count is set.
	Percent int
}

// ParseBatch reads "3" or "25%".
func ParseBatch(s string) (Batch, error) {
	number, percent := strings.CutSuffix(s, "%")
	most := maxNodes
	if percent {
		most = 100
	}
	n, err := strconv.Atoi(number)
	if err != nil || !allDigits(number) || n < 1 || n > most {
		return Batch{}, fmt.Errorf("batch %s is not possible: write a number of nodes from 1 to %d, such as 3, or a share from 1%% to 100%%, such as 25%%", quote(s), maxNodes)
	}
	if percent {
		return Batch{Percent: n}, nil
	}
	return Batch{Count: n}, nil
}

// Of is the number of nodes at once out of total: a share is rounded down, the least is 1, the most is total.
func (b Batch) Of(total int) int {
	if total <= 0 {
		return 0
	}
	n := b.Count
	if b.Percent > 0 {
		n = total * b.Percent / 100
	}
	return min(max(n, 1), total)
}

// String writes b as ParseBatch reads it.
func (b Batch) String() string {
	if b.Percent > 0 {
		return strconv.Itoa(b.Percent) + "%"
	}
	return strconv.Itoa(b.Count)
}
