package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"time"
)

// Sum is a SHA-256.
type Sum [sha256.Size]byte

func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Range is Length bytes from Offset.
type Range struct{ Offset, Length int64 }

// Stat is by which a source is known not to have been written to.
type Stat struct {
	// Size in bytes.
	Size int64
	// Modified is the time of the last change.
	Modified time.Time
}

func (s Stat) same(other Stat) bool { return s.Size == other.Size && s.Modified.Equal(other.Modified) }

// Source is a file that is read in ranges, on a node or here. Its methods are called by several goroutines at once. An error of
// theirs is tried again a few times, unless it is an *Error of this package that is not Retryable.
type Source interface {
	// Stat returns size and time of the last change as they are now.
	Stat(ctx context.Context) (Stat, error)
	// ReadRange returns the length bytes from offset; an early end means that the file is shorter.
	ReadRange(ctx context.Context, offset, length int64) (io.ReadCloser, error)
	// Sums returns the SHA-256 of each range, computed where the data is.
	Sums(ctx context.Context, ranges []Range) ([]Sum, error)
}
