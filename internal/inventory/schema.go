package inventory

import (
	_ "embed"
	"slices"
)

//go:generate go test -run TestSchema_CheckedInCopy_IsCurrent . -update

// The schema is generated from the types of this package by schema_test.go and kept as a file, so that editors can refer to it and
// the program carries neither the generator nor the sources whose comments it holds.
//
//go:embed inventory.schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of the inventory file, for editors. It knows the form of each value; what one
// value says about another, such as a name used twice, only [Parse] finds.
func Schema() ([]byte, error) { return slices.Clone(schema), nil }
