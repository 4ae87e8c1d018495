package lab

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

//go:embed files/golden.sh
var goldenScript string

// goldenTree returns the folder of the tree that all hosts share, and makes it when the cache has none of this recipe. A tree half made by a killed
// process is never taken: it gets its name when it is whole.
func (l *Lab) goldenTree(ctx context.Context) (string, error) {
	recipe := goldenScript
	for _, p := range packageSources {
		recipe += p.name + p.about
	}
	sum := sha256.Sum256([]byte(recipe))
	tree := filepath.Join(l.cfg.Cache, "golden-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	began := time.Now()
	l.cfg.Log("making the golden tree with debootstrap; this takes a minute or two, once")
	if err := os.MkdirAll(l.cfg.Cache, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(l.cfg.Cache, "making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	old := filepath.Join(work, "old")
	if err := os.Mkdir(old, 0o755); err != nil {
		return "", err
	}
	if err := buildPackages(ctx, old, "1.0"); err != nil {
		return "", err
	}
	made := filepath.Join(work, "tree")
	if err := run(ctx, "sh", "-c", goldenScript, "sh", made, filepath.Join(l.cfg.Cache, "packages"), old); err != nil {
		return "", fmt.Errorf("the golden tree: %w", err)
	}
	if err := os.Rename(made, tree); err != nil {
		if _, there := os.Stat(tree); there != nil {
			return "", err
		}
	}
	l.cfg.Log("the golden tree is made (%s)", time.Since(began).Round(time.Second))
	return tree, nil
}
