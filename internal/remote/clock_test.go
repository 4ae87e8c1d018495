package remote

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clockNode answers as a node whose clock is ahead, each time later than before; says replaces what it answers.
type clockNode struct {
	ahead time.Duration
	says  string
	ends  error
}

func (n clockNode) Run(ctx context.Context, _ Host, c Command) (Result, error) {
	if n.ends != nil {
		return Result{}, n.ends
	}
	line := make([]byte, 64)
	for {
		got, err := c.Stdin.Read(line)
		for range strings.Count(string(line[:got]), "\n") {
			said := n.says
			if said == "" {
				said = fmt.Sprint(time.Now().Add(n.ahead).UnixNano())
			}
			if _, err := io.WriteString(c.Stdout, said+"\n"); err != nil {
				return Result{}, err
			}
		}
		switch {
		case err == io.EOF:
			return Result{}, nil
		case err != nil:
			return Result{}, err
		case ctx.Err() != nil:
			return Result{}, ctx.Err()
		}
	}
}

func TestClockOffset_OfANode_IsWithinItsBound(t *testing.T) {
	for _, ahead := range []time.Duration{0, 5 * time.Second, -90 * time.Minute} {
		offset, bound, err := ClockOffset(t.Context(), clockNode{ahead: ahead}, Host{Name: "a"})
		require.NoError(t, err)
		require.Positive(t, bound)
		require.LessOrEqual(t, (offset - ahead).Abs(), bound, "ahead by %s", ahead)
	}
	_, _, err := ClockOffset(t.Context(), clockNode{says: "1789000000N"}, Host{Name: "a"})
	require.ErrorContains(t, err, `a: the node's clock cannot be read: date +%s%N says "1789000000N"`)
	_, _, err = ClockOffset(t.Context(), clockNode{ends: transportError("a", nil, "ssh: gone")}, Host{Name: "a"})
	require.True(t, IsKind(err, KindTransport), "%v", err)
}
