package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Digest is "sha256:" and the hex digits of a hash over the cluster's name and everything its section says, defaults filled in,
// paths and references as written. Formatting, comments, the machine and its environment do not matter; the order of nodes does.
func (c *Cluster) Digest() string {
	data, err := json.Marshal(struct {
		Name    string   `json:"name"`
		Cluster *Cluster `json:"cluster"`
	}{c.Name, c})
	if err != nil {
		// Every type in a Cluster can be written as JSON; a new one that cannot is found by the first test.
		panic(fmt.Sprintf("inventory: cluster as JSON: %v", err))
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
