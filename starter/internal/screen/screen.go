// Package screen redraws a few lines in place on a terminal, without flicker, and leaves it in order.
package screen

import (
	"io"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
)

// Control sequences every terminal since the VT100 knows; the pair around a frame is ignored where it is not known.
const (
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
	beginUpdate = "\x1b[?2026h"
	endUpdate   = "\x1b[?2026l"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// Screen is the place of one frame, from the line of the cursor on. It is not safe for concurrent use.
type Screen struct {
	out    io.Writer
	drawn  []string
	width  int
	hidden bool
}

// New draws on out, a terminal.
func New(out io.Writer) *Screen { return &Screen{out: out} }

// Draw replaces the frame by lines, none of which may be wider than width columns (0: not known). One write a frame.
func (s *Screen) Draw(lines []string, width int) {
	var b strings.Builder
	b.WriteString(beginUpdate)
	if !s.hidden {
		b.WriteString(hideCursor)
		s.hidden = true
	}
	s.home(&b, width)
	for _, l := range lines {
		b.WriteString(l + clearLine + "\r\n")
	}
	b.WriteString(clearBelow + endUpdate)
	s.drawn, s.width = append(s.drawn[:0], lines...), width
	_, _ = io.WriteString(s.out, b.String()) // a terminal that is gone is noticed by the signal that comes with it
}

// home goes to the first line of the frame. Lines drawn on a wider terminal have been wrapped when it became narrower.
func (s *Screen) home(b *strings.Builder, width int) {
	up := 0
	for _, l := range s.drawn {
		rows := 1
		if w := text.StringWidthWithoutEscSequences(l); width > 0 && w > width {
			rows = (w + width - 1) / width
		}
		up += rows
	}
	if up > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(up) + "A\r")
	}
}

// Bell rings once.
func (s *Screen) Bell() { _, _ = io.WriteString(s.out, "\a") }

// Close shows the cursor again, below the frame; with keep unset the frame is removed.
func (s *Screen) Close(keep bool) {
	var b strings.Builder
	if !keep {
		s.home(&b, s.width)
		if len(s.drawn) > 0 {
			b.WriteString(clearBelow)
		}
	}
	if s.hidden {
		b.WriteString(showCursor)
		s.hidden = false
	}
	s.drawn = nil
	_, _ = io.WriteString(s.out, b.String())
}
