package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) opListCommand() *cobra.Command {
	var (
		cluster    string
		all, needs bool
		limit      int
		inventory  string
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List operations, the running ones first",
		Example: `  katoflow op list
  katoflow op list --needs-operator
  katoflow op list --cluster prod --all --limit 20 -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var problems []string
			if cluster != "" {
				if err := checkCluster(cluster); err != nil {
					problems = append(problems, err.Error())
				}
			}
			if limit < 1 || limit > mostScanned {
				problems = append(problems, fmt.Sprintf("--limit %d: write a number from 1 to %d", limit, mostScanned))
			}
			if len(problems) > 0 {
				return badInputs(problems)
			}
			s, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			var query []string
			if cluster != "" {
				query = append(query, fmt.Sprintf("%s = %q", operation.AttributeCluster.GetName(), cluster))
			}
			if needs {
				query = append(query, operation.AttributeNeedsOperator.GetName()+" = true")
			}
			if !all || needs {
				query = append(query, running)
			}
			found, err := s.list(cmd.Context(), strings.Join(query, " AND "), limit, nil)
			if err != nil {
				return err
			}
			slices.SortStableFunc(found, func(a, b listed) int {
				if a.Open != b.Open {
					if a.Open {
						return -1
					}
					return 1
				}
				return strings.Compare(b.StartedAt, a.StartedAt)
			})
			if found == nil {
				found = []listed{}
			}
			return c.print(found, func() string {
				if len(found) == 0 {
					if all {
						return "no operations\n"
					}
					return "no operation is running; --all lists those that have ended\n"
				}
				rows := make([]view.ListRow, len(found))
				for i, l := range found {
					rows[i] = view.ListRow{ID: l.OperationID, Kind: l.Kind, Cluster: l.Cluster, Phase: l.Phase, Node: l.Node, NeedsOperator: l.NeedsOperator,
						StartedAt: l.StartedAt, EndedAt: l.EndedAt, RequestedBy: l.RequestedBy}
				}
				return view.List(rows, c.now(), c.style(c.out))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cluster, "cluster", "", "only operations on this cluster")
	flags.BoolVar(&all, "all", false, "also those that have ended")
	flags.BoolVar(&needs, "needs-operator", false, "only those that wait for an answer")
	flags.IntVar(&limit, "limit", 50, "at most so many")
	must(cmd.RegisterFlagCompletionFunc("cluster", c.completeClusters(&inventory)))
	must(cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions))
	return cmd
}
