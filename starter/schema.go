package main

import (
	"bytes"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/inventory"
)

func (c *cli) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the inventory file, for editors",
		Example: `  katoflow schema >inventory.schema.json
  # first line of an inventory for editors with the YAML language server:
  #   # yaml-language-server: $schema=inventory.schema.json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			schema, err := inventory.Schema()
			if err != nil {
				return err
			}
			_, err = c.out.Write(append(bytes.TrimRight(schema, "\n"), '\n'))
			return err
		},
	}
}
