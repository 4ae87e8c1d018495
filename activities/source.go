package activities

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// Source is the worker's cluster file, read again when it has changed. It is safe for concurrent use.
type Source struct {
	path string
	env  func(string) (string, bool)

	mu   sync.Mutex
	info fs.FileInfo
	file *inventory.File
}

// NewSource returns the cluster file at path. env looks up an environment variable (os.LookupEnv) for what the file refers to.
func NewSource(path string, env func(string) (string, bool)) *Source {
	return &Source{path: path, env: env}
}

// load returns the file as it is now. A file that became unreadable or invalid is an error, not the old file: an operation must not go on with what
// nobody can read any more.
func (s *Source) load() (*inventory.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	if err == nil && s.file != nil && os.SameFile(info, s.info) && info.Size() == s.info.Size() && info.ModTime().Equal(s.info.ModTime()) {
		return s.file, nil
	}
	file, loadErr := inventory.Load(s.path)
	if loadErr != nil {
		s.file = nil
		return nil, loadErr
	}
	// A file written while it was read has another time or size at the next call. Times are coarse on some file systems: a file of this very
	// moment is not kept.
	if err == nil && time.Since(info.ModTime()) > 2*time.Second {
		s.info, s.file = info, file
	}
	return file, nil
}

// site is one cluster of the file.
type site struct {
	file    *inventory.File
	cluster *inventory.Cluster
	env     func(string) (string, bool)
}

// target is one node and how to reach it.
type target struct {
	node *inventory.Node
	host remote.Host
}

// site looks a cluster up for a step of a running operation. What was right when the operation was planned and is not any more keeps the outcome
// of the step unknown, so that a retry takes up the same job.
func (s *Source) site(cluster string) (site, error) {
	file, err := s.load()
	if err != nil {
		return site{}, operation.NewError(operation.Failure{Type: operation.ErrInternal,
			Message: oneLine("the worker's inventory cannot be used any more: correct it and retry: "+firstLine(err.Error()), 1024)})
	}
	c, err := file.Cluster(cluster)
	if err != nil {
		return site{}, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: oneLine("the worker's inventory has changed: "+err.Error(), 1024)})
	}
	return site{file: file, cluster: c, env: s.env}, nil
}

func (s site) target(name string) (target, error) {
	n, err := s.cluster.Node(name)
	if err != nil {
		return target{}, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: oneLine("the worker's inventory has changed: "+err.Error(), 1024)})
	}
	return s.of(n)
}

// targets are the nodes of those names, in their order.
func (s site) targets(names []string) ([]target, error) {
	out := make([]target, len(names))
	for i, name := range names {
		var err error
		if out[i], err = s.target(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s site) of(n *inventory.Node) (target, error) {
	h, err := s.file.Host(s.cluster, n, s.env)
	if err != nil {
		return target{}, operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: oneLine(err.Error(), 1024)})
	}
	return target{node: n, host: h}, nil
}

// core returns the Core node of an als cluster.
func (s site) core() (target, error) {
	n := s.cluster.CoreNode()
	if n == nil {
		return target{}, operation.NewError(operation.Failure{Type: operation.ErrInternal,
			Message: fmt.Sprintf("cluster %s has no Core node in the worker's inventory: write core: true at it", remote.Escape(s.cluster.Name))})
	}
	return s.of(n)
}

func (s site) als() bool { return s.cluster.Platform == inventory.PlatformALS }

// problemsOf takes apart what inventory reports, one line each.
func problemsOf(err error) []string {
	var ps inventory.Problems
	if !errors.As(err, &ps) {
		return []string{oneLine(err.Error(), 1024)}
	}
	lines := make([]string, 0, len(ps))
	for _, p := range ps {
		lines = append(lines, oneLine(p.Error(), 512))
	}
	return lines
}
