package operation

import (
	"fmt"
	"strconv"
	"strings"
)

// Batch is how many nodes may be out of service at once: a count or a percentage of the nodes of the operation.
type Batch struct {
	count, percent int
}

// ParseBatch reads "3" or "25%". Empty is one node.
func ParseBatch(s string) (Batch, error) {
	if s == "" {
		return Batch{count: 1}, nil
	}
	bad := fmt.Errorf("batch %s: write a number of nodes from 1 (\"3\") or a percentage from 1%% to 100%% (\"25%%\")", strconv.Quote(Shorten(s, 40)))
	digits, isPercent := strings.CutSuffix(s, "%")
	if digits == "" || strings.Trim(digits, "0123456789") != "" || len(digits) > 6 {
		return Batch{}, bad
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || isPercent && n > 100 {
		return Batch{}, bad
	}
	if isPercent {
		return Batch{percent: n}, nil
	}
	return Batch{count: n}, nil
}

// Of is the number of slots for an operation over total nodes: a percentage rounds down, there is always one, and never more than nodes.
func (b Batch) Of(total int) int {
	n := b.count
	if b.percent > 0 {
		n = total * b.percent / 100
	}
	return max(1, min(n, total))
}

// Exceeds reports whether a count is larger than the nodes there are, which is more likely a slip than a wish.
func (b Batch) Exceeds(total int) bool { return b.percent == 0 && b.count > total }

// String is the form that ParseBatch reads.
func (b Batch) String() string {
	if b.percent > 0 {
		return strconv.Itoa(b.percent) + "%"
	}
	return strconv.Itoa(max(1, b.count))
}
