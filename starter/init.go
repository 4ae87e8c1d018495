package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// initResult says which search attributes were added.
type initResult struct {
	Namespace string   `json:"namespace"`
	Added     []string `json:"added"`
	Present   []string `json:"present"`
}

func (c *cli) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Prepare a Temporal namespace: register katoflow's search attributes",
		Long: `Register the search attributes that operations are found by in the Temporal namespace. Run again it adds nothing.

A server that does not let clients do this (Temporal Cloud, a restricted account) says so; then its administrator registers
KatoflowCluster, KatoflowOperation, KatoflowPhase and KatoflowNode as Keyword and KatoflowNeedsOperator as Bool.`,
		Example: `  katoflow init
  katoflow init --address temporal.example.com:7233 --namespace maintenance`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			result, err := s.register(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(result, func() string {
				if len(result.Added) == 0 {
					return fmt.Sprintf("namespace %s has all search attributes already: %s\n", result.Namespace, strings.Join(result.Present, ", "))
				}
				return fmt.Sprintf("namespace %s: added %s\n", result.Namespace, strings.Join(result.Added, ", "))
			})
		},
	}
}

// attributeNames are the names of all search attributes.
func attributeNames() []string {
	var names []string
	for _, k := range []temporal.SearchAttributeKey{
		operation.AttributeCluster, operation.AttributeOperation, operation.AttributePhase, operation.AttributeNode, operation.AttributeNeedsOperator,
	} {
		names = append(names, k.GetName())
	}
	return names
}

func (s *server) register(ctx context.Context) (initResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	result := initResult{Namespace: s.namespace, Added: []string{}, Present: []string{}}
	added, err := temporalkit.RegisterSearchAttributes(ctx, s.Client, s.namespace)
	switch {
	case errors.Is(err, temporalkit.ErrAttributesUnknown):
		return result, fail(exitNoServer, "%s; ask its administrator to register KatoflowCluster, KatoflowOperation, KatoflowPhase and KatoflowNode as Keyword and KatoflowNeedsOperator as Bool", oneLine(err.Error()))
	case err != nil && unreachable(err):
		return result, s.explain(err)
	case err != nil:
		return result, badInput("%s", oneLine(err.Error()))
	}
	isNew := map[string]bool{}
	for _, name := range added {
		isNew[name] = true
		result.Added = append(result.Added, name)
	}
	for _, name := range attributeNames() {
		if !isNew[name] {
			result.Present = append(result.Present, name)
		}
	}
	return result, nil
}
