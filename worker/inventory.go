package main

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/temporalkit"
)

// inventoryFile follows the worker's inventory: the scrubber learns the secrets of every version of it, and the health endpoint whether it can be
// used. Operations read the file themselves.
type inventoryFile struct {
	path     string
	env      func(string) (string, bool)
	scrubber *temporalkit.Scrubber
	log      *zap.Logger

	mu      sync.Mutex
	size    int64
	changed time.Time
	err     error
}

// Check reads the file if it has changed and returns what is wrong with its present state.
func (f *inventoryFile) Check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && info.Size() == f.size && info.ModTime().Equal(f.changed) {
		return f.err
	}
	first := f.changed.IsZero()
	if err == nil {
		f.size, f.changed = info.Size(), info.ModTime()
	} else {
		f.size, f.changed = -1, time.Unix(0, 1)
	}
	was := f.err
	file, err := inventory.Load(f.path)
	f.err = err
	switch {
	case err != nil:
		if !first && (was == nil || was.Error() != err.Error()) {
			logProblems(f.log, "the inventory has changed and cannot be used", err)
		}
		return err
	case !first:
		f.log.Info("the inventory has changed", zap.Strings("clusters", file.ClusterNames()))
	}
	f.learn(file)
	return nil
}

// learn tells the scrubber the secrets of the file. One that cannot be read is told by CheckFiles and by the operation that needs it.
func (f *inventoryFile) learn(file *inventory.File) {
	for _, c := range file.Clusters {
		for _, s := range c.Secrets() {
			value, err := s.Resolve(file, f.env)
			if err != nil {
				continue
			}
			for line := range bytes.Lines(value) { // of a key each is as good as the whole
				f.scrubber.Add(line)
			}
		}
	}
}

// lookup is the environment as what uses the inventory sees it: the scrubber learns every value, because apart from the agent's socket only secrets
// are looked up.
func (f *inventoryFile) lookup(name string) (string, bool) {
	value, ok := f.env(name)
	if ok && name != "SSH_AUTH_SOCK" {
		f.scrubber.Add([]byte(value))
	}
	return value, ok
}

// follow checks the file every so often until done is closed.
func (f *inventoryFile) follow(every time.Duration, done <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			_ = f.Check() // logged, and asked for again by the health endpoint
		}
	}
}

// problems are the single problems of an inventory error.
func problems(err error) []string {
	var all inventory.Problems
	if !errors.As(err, &all) {
		return []string{err.Error()}
	}
	out := make([]string, len(all))
	for i, p := range all {
		out[i] = p.Error()
	}
	return out
}

func logProblems(log *zap.Logger, msg string, err error) {
	for _, p := range problems(err) {
		log.Warn(msg, zap.String("problem", p))
	}
}
