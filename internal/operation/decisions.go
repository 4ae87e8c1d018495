package operation

import (
	"fmt"
	"slices"
	"strings"
)

// Decision is an operator's answer to a question.
type Decision string

// What can be decided. Which of them a question takes is in its Choices.
const (
	Retry    Decision = "retry"    // the failed step again, as its next try
	Skip     Decision = "skip"     // leave this node as it is and go on
	Abort    Decision = "abort"    // start no further node, end in a safe state
	Wait     Decision = "wait"     // look again whether it is well by now
	Degraded Decision = "degraded" // go on although a node is out of service
	Leave    Decision = "leave"    // while cancelling: leave it as it is, the report names it
	Back     Decision = "back"     // put back what was moved or upgraded, as it was
	Accept   Decision = "accept"   // take it as done, whatever was read
)

// Question is what an operation that is parked needs to know.
type Question struct {
	// Node is a node's name, or "cluster".
	Node string `json:"node"`
	Step string `json:"step"`
	// Try is part of the key, so that a late answer never hits the next failure.
	Try     int        `json:"try"`
	Cause   Failure    `json:"cause"`
	Choices []Decision `json:"choices"`
	// AskedAt and AnswerBy are UTC, RFC 3339; when nobody has answered by then the deadline policy does.
	AskedAt  string `json:"askedAt"`
	AnswerBy string `json:"answerBy,omitempty"`
}

// Key identifies an open question.
func (q Question) Key() string { return fmt.Sprintf("%s/%s/%d", q.Node, q.Step, q.Try) }

// DecideRequest is the one argument of the update `decide`.
type DecideRequest struct {
	Node     string   `json:"node"`
	Step     string   `json:"step"`
	Try      int      `json:"try"`
	Decision Decision `json:"decision"`
	Reason   string   `json:"reason,omitempty"`
	Who      string   `json:"who,omitempty"`
}

// Key of the question it answers.
func (r DecideRequest) Key() string { return fmt.Sprintf("%s/%s/%d", r.Node, r.Step, r.Try) }

// Answer is a decision as it stands in the report.
type Answer struct {
	DecideRequest
	// At is UTC, RFC 3339.
	At string `json:"at"`
	// By is "operator", "max-failures" or "deadline".
	By string `json:"by"`
}

// Check says what is wrong with an answer to q.
func (q Question) Check(r DecideRequest) error {
	if !slices.Contains(q.Choices, r.Decision) {
		names := make([]string, len(q.Choices))
		for i, c := range q.Choices {
			names[i] = string(c)
		}
		return fmt.Errorf("decision %q: choose one of %s", Shorten(string(r.Decision), 40), strings.Join(names, ", "))
	}
	return nil
}

// PauseRequest holds an operation before its next node.
type PauseRequest struct {
	Who    string `json:"who,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// ResumeRequest ends a pause.
type ResumeRequest struct {
	Who string `json:"who,omitempty"`
}

// SetBatchRequest changes how many nodes are worked on at once, from the next node on.
type SetBatchRequest struct {
	// Batch is a count ("3") or a percentage ("25%").
	Batch string `json:"batch"`
	Who   string `json:"who,omitempty"`
}
