// Package share deals tests that are long because they are many of one kind, such as a death at every statement, out to several runs. Each run of the gate tries one part, which changes with
// every commit, so that it does not take longer with every procedure; without a share all of them are tried.
package share

import (
	"fmt"
	"hash/fnv"
)

// Variable is the environment variable that tests read a share from.
const Variable = "KATOFLOW_SHARE"

// Share is one part of so many. The zero value has all.
type Share struct{ part, parts int }

// Parse reads "2/12", the second of twelve parts; "" has all.
func Parse(text string) (Share, error) {
	var s Share
	if text == "" {
		return s, nil
	}
	var rest string
	if n, _ := fmt.Sscanf(text, "%d/%d%s", &s.part, &s.parts, &rest); n != 2 || s.part < 1 || s.part > s.parts {
		return Share{}, fmt.Errorf("%s=%q is no part: write 2/12 for the second of twelve", Variable, text)
	}
	s.part--
	return s, nil
}

// Has says whether the i-th of a kind, counted from 0, belongs to the part.
func (s Share) Has(i int) bool { return s.parts == 0 || i%s.parts == s.part }

// HasTurn says whether it is the turn of the i-th of so few that every part has only one of them, and all come once in of parts.
func (s Share) HasTurn(i, of int) bool { return s.parts == 0 || i%of == s.part%of }

// HasName says whether the thing of that name is tried, where names are dealt out to so many hands (a divisor of the parts): every part has one hand, the next part the next one, and a number of parts
// later it is its turn again. ahead is how many parts earlier it comes, so that two kinds of trials of the same thing fall into different parts. Names are dealt out by their sums, so that a new one moves no
// other.
func (s Share) HasName(name string, hands, ahead int) bool {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name))
	return s.parts == 0 || int(sum.Sum32()%uint32(hands)) == (s.part+ahead)%hands
}

// String is "part 2 of 6", or "all".
func (s Share) String() string {
	if s.parts == 0 {
		return "all"
	}
	return fmt.Sprintf("part %d of %d", s.part+1, s.parts)
}
