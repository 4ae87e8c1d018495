package screen

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// terminal understands what Screen writes: enough to see what a person would.
type terminal struct {
	rows   []string
	row    int
	hidden bool
	bells  int
	writes int
}

var sequence = regexp.MustCompile(`^\x1b\[(\??[0-9]*)([A-Za-z])`)

func (v *terminal) Write(p []byte) (int, error) {
	v.writes++
	s := string(p)
	line := func() *string {
		for len(v.rows) <= v.row {
			v.rows = append(v.rows, "")
		}
		return &v.rows[v.row]
	}
	column := 0
	for len(s) > 0 {
		if m := sequence.FindStringSubmatch(s); m != nil {
			s = s[len(m[0]):]
			n, _ := strconv.Atoi(m[1])
			switch m[1] + m[2] {
			case "?25l":
				v.hidden = true
			case "?25h":
				v.hidden = false
			case "?2026h", "?2026l", "0m", "32m":
			case "K":
				*line() = (*line())[:column]
			case "J":
				v.rows = v.rows[:min(len(v.rows), v.row)]
			default:
				if m[2] != "A" {
					return 0, fmt.Errorf("sequence %q is not understood", m[0])
				}
				v.row -= n
				if v.row < 0 {
					return 0, fmt.Errorf("the cursor went %d rows above the top", -v.row)
				}
			}
			continue
		}
		switch c := s[0]; c {
		case '\r':
			column = 0
		case '\n':
			v.row++
		case '\a':
			v.bells++
		default:
			l := line()
			*l = (*l)[:min(len(*l), column)] + string(c) + (*l)[min(len(*l), column+1):]
			column++
		}
		s = s[1:]
	}
	return len(p), nil
}

func TestScreen_FramesOfChangingHeight_ShowTheLastOne(t *testing.T) {
	v := &terminal{rows: []string{"$ katoflow op watch prod"}, row: 1}
	s := New(v)
	for _, frame := range [][]string{{"one", "two", "three"}, {"1"}, {"first line", "second", "third", "fourth"}, {"final", "\x1b[32mdone\x1b[0m"}} {
		before := v.writes
		s.Draw(frame, 80)
		if v.writes != before+1 {
			t.Errorf("a frame took %d writes", v.writes-before)
		}
		if !v.hidden {
			t.Error("the cursor is seen jumping about")
		}
	}
	s.Bell()
	s.Close(true)
	if diff := cmp.Diff([]string{"$ katoflow op watch prod", "final", "done"}, v.rows); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if v.hidden || v.bells != 1 {
		t.Errorf("cursor hidden: %v, bells: %d", v.hidden, v.bells)
	}
}

func TestScreen_CloseWithoutKeeping_RemovesTheFrame(t *testing.T) {
	v := &terminal{}
	s := New(v)
	s.Draw([]string{"a", "b"}, 80)
	s.Close(false)
	if len(v.rows) != 0 || v.row != 0 || v.hidden {
		t.Errorf("left behind: %q, row %d, cursor hidden %v", v.rows, v.row, v.hidden)
	}
	s.Draw([]string{"again"}, 80)
	if diff := cmp.Diff([]string{"again"}, v.rows); diff != "" {
		t.Errorf("after a close -want +got:\n%s", diff)
	}
}

func TestScreen_TerminalBecameNarrower_GoesUpByTheWrappedRows(t *testing.T) {
	var out strings.Builder
	s := New(&out)
	s.Draw([]string{strings.Repeat("x", 90), "short"}, 100)
	out.Reset()
	s.Draw([]string{"new"}, 40) // 90 columns are three rows of 40
	if !strings.Contains(out.String(), "\x1b[4A\r") {
		t.Errorf("got %q, want four rows up", out.String())
	}
}
