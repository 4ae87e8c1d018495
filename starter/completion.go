package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
)

func (c *cli) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the completion script of a shell",
		Long:  "Print the completion script of a shell. It completes commands, flags, clusters, nodes and roles of the inventory, and operations.",
		Example: `  # bash, for the running shell and for those to come
  source <(katoflow completion bash)
  katoflow completion bash >~/.local/share/bash-completion/completions/katoflow

  # zsh
  katoflow completion zsh >"${fpath[1]}/_katoflow"

  # fish
  katoflow completion fish >~/.config/fish/completions/katoflow.fish

  # PowerShell
  katoflow completion powershell | Out-String | Invoke-Expression`,
		Args:                  exactly("SHELL"),
		ValidArgs:             shells,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.out, true)
			case "zsh":
				return root.GenZshCompletion(c.out)
			case "fish":
				return root.GenFishCompletion(c.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(c.out)
			}
			return badInput("shell %q: choose bash, zsh, fish or powershell", operationName(args[0]))
		},
	}
}

// completionPatience bounds what a person waits for after the tab key.
const completionPatience = 2 * time.Second

// completeFromServer offers what ask finds on the server, for as many arguments as most; 0 is any number. A server that does not answer offers nothing.
func (c *cli) completeFromServer(most int, order cobra.ShellCompDirective, ask func(ctx context.Context, s *server, args []string) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionPatience)
		defer cancel()
		s, err := c.connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer s.Close()
		words, err := ask(ctx, s, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp | order
	}
}

// completeOperations offers the ids of operations, of the running ones only with open.
func (c *cli) completeOperations(open bool) cobra.CompletionFunc {
	return c.completeFromServer(1, cobra.ShellCompDirectiveKeepOrder, func(ctx context.Context, s *server, _ []string) ([]string, error) {
		query := ""
		if open {
			query = running
		}
		found, err := s.list(ctx, query, 30, listed.rolling)
		if err != nil {
			return nil, err
		}
		var words []string
		clusters := map[string]bool{}
		for _, l := range found {
			words = append(words, cobra.CompletionWithDesc(oneLine(l.OperationID), oneLine(l.Kind+" of "+l.Cluster+", "+l.Phase)))
			if l.Open && !clusters[l.Cluster] {
				clusters[l.Cluster] = true
				words = append(words, cobra.CompletionWithDesc(oneLine(l.Cluster), "its running operation"))
			}
		}
		return append(words, "latest"), nil
	})
}

// completeClusters offers the clusters of the local inventory file, for the first argument and for flags.
func (c *cli) completeClusters(path *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		file := c.completionFile(*path)
		if file == nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return file.ClusterNames(), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNodes offers the nodes of the cluster that is the first argument.
func (c *cli) completeNodes(path *string) cobra.CompletionFunc {
	return c.completeOf(path, func(cluster *inventory.Cluster) []string {
		names := make([]string, len(cluster.Nodes))
		for i, n := range cluster.Nodes {
			names[i] = n.Name
		}
		return names
	})
}

// completeRoles offers the roles of the cluster that is the first argument.
func (c *cli) completeRoles(path *string) cobra.CompletionFunc {
	return c.completeOf(path, func(cluster *inventory.Cluster) []string { return cluster.Roles() })
}

func (c *cli) completeOf(path *string, names func(*inventory.Cluster) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		file := c.completionFile(*path)
		if file == nil || len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cluster, err := file.Cluster(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(cluster), cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *cli) completionFile(flag string) *inventory.File {
	path := c.inventoryPath(flag)
	if path == "" {
		return nil
	}
	file, err := inventory.Load(path)
	if err != nil {
		return nil
	}
	return file
}
