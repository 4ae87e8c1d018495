package operation

// Rolling says how a procedure goes over the nodes of a cluster. Zero values are the defaults.
type Rolling struct {
	// Nodes limits the operation to these; empty = all.
	Nodes []string `json:"nodes,omitempty"`
	// Batch is a count or percentage of nodes at once (default "1").
	Batch string `json:"batch,omitempty"`
	// NoCanary lets the first batch be a whole one; otherwise the first node goes alone and is followed by the soak.
	NoCanary bool     `json:"noCanary,omitempty"`
	Soak     Duration `json:"soak,omitempty"`
	// MaxFailures: nil asks about every failed node; otherwise so many nodes are skipped without asking and one more aborts.
	MaxFailures *int `json:"maxFailures,omitempty"`
	// Window: no node is begun outside of it.
	Window WindowInput `json:"window,omitzero"`
}

// Check lists what is wrong with it, one line each.
func (r Rolling) Check() []string {
	var problems []string
	if r.Soak < 0 {
		problems = append(problems, "soak is negative")
	}
	if r.MaxFailures != nil && *r.MaxFailures < 0 {
		problems = append(problems, "max-failures is negative: 0 aborts at the first failed node")
	}
	return append(problems, r.Window.Check(UnitNode)...)
}
