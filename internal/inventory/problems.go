package inventory

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxProblems bounds what one file can print; a file with more of them is broken in one way many times.
const maxProblems = 1000

// maxQuoted is how many characters of the file's own text a message repeats.
const maxQuoted = 60

// Problem is one thing that is wrong with an inventory file.
type Problem struct {
	// File as it was named to Load or Parse.
	File string
	// Line and Column count from 1; 0 when the problem concerns the whole file or its place is not known.
	Line, Column int
	// Field is the path of the value, such as "clusters.prod.nodes[2].ssh.port"; "" for the whole file.
	Field string
	// Message is one line: what is wrong and what would be right.
	Message string
}

// Error is one line: file:line:column: field: message.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(printable(p.File))
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is everything that is wrong with an inventory file, in the order of the file.
type Problems []Problem

// Error prints all problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// err is nil when there are no problems, so that no typed nil leaves the package.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	sort.SliceStable(ps, func(i, j int) bool {
		if ps[i].Line != ps[j].Line {
			return ps[i].Line < ps[j].Line
		}
		return ps[i].Column < ps[j].Column
	})
	return ps
}

// add keeps p, or says once that there are too many to be worth reading; false when no more are taken.
func (ps *Problems) add(p Problem) bool {
	switch {
	case len(*ps) < maxProblems:
		*ps = append(*ps, p)
		return true
	case len(*ps) == maxProblems:
		*ps = append(*ps, Problem{File: p.File, Line: p.Line, Column: p.Column, Message: fmt.Sprintf("there are more than %d problems: the rest is not shown", maxProblems)})
	}
	return false
}

// position of a value in the file, both from 1.
type position struct{ line, column int }

// quote makes text from a file safe and short enough for a one-line message.
func quote(s string) string {
	if utf8.RuneCountInString(s) <= maxQuoted {
		return strconv.QuoteToASCII(s)
	}
	runes := 0
	for i := range s {
		if runes == maxQuoted {
			return strconv.QuoteToASCII(s[:i]) + "..."
		}
		runes++
	}
	return strconv.QuoteToASCII(s)
}

// printable is s itself where it is plain text, else s quoted; for file names.
func printable(s string) string {
	q := strconv.Quote(s)
	if q == `"`+s+`"` {
		return s
	}
	return q
}

// quoteAll quotes each of names and joins them with commas, leaving out what would make the line long.
func quoteAll(names []string) string {
	const most = 12
	shown := names
	if len(shown) > most {
		shown = shown[:most]
	}
	quoted := make([]string, len(shown))
	for i, n := range shown {
		quoted[i] = quote(n)
	}
	s := strings.Join(quoted, ", ")
	if len(names) > most {
		s += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return s
}

// nearest is the one of known that s most likely was meant to be, or "".
func nearest(s string, known []string) string {
	if len(s) > 64 {
		return ""
	}
	best, bestDistance := "", 1+max(1, min(3, len(s)/3))
	for _, k := range known {
		if len(s) > 3 && strings.HasPrefix(k, strings.ToLower(s)) {
			return k
		}
		if d := distance(strings.ToLower(s), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, change or swap with their neighbour to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// didYouMean is the end of a message about an unknown word.
func didYouMean(s string, known []string) string {
	if n := nearest(s, known); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return "known are " + quoteAll(known)
}
