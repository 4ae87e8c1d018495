package simcluster

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// disk is what the disks of a node held at the moment of a snapshot: its files, its packages, the version that kato upgraded it to, and on the Core the cluster's configuration.
// What lies in memory is not in it, nor is what a Cloud Controller has, which is no machine of the cluster here.
type disk struct {
	files    string // a folder of the host
	owners   map[string]string
	packages packageDisk
	docker   *dockerDisk           // nil without docker
	config   map[string]any        // kato's, nil but on the Core
	kato     *katodouble.NodeState // of the upgrades of kato; nil on a plain cluster
}

// packageDisk is what a node's packages are on its disk.
type packageDisk struct {
	pkgs     map[string]packageEntry
	pending  []Package
	fresh    bool
	kernels  []string
	holds    map[string]bool
	required []string
}

func (n *Node) isCore() bool { return slices.Contains(n.cfg.Roles, "primary") }

// capture copies the disks of a node as they are now into a folder of the host. A node that was never used has none yet, and gets them.
func (n *Node) capture(to string) (*disk, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	d := &disk{files: to, packages: n.packages.disk(), docker: n.docker.disk()}
	n.tree.mu.Lock()
	d.owners = maps.Clone(n.tree.owners)
	n.tree.mu.Unlock()
	if k := n.cluster.kato; k != nil {
		if state, known := k.NodeState(n.address); known {
			d.kato = &state
		}
		if n.isCore() {
			d.config = k.Config()
		}
	}
	return d, copyTree(n.tree.root, to)
}

// putBack makes the disks of a node that is off as they were.
func (n *Node) putBack(d *disk) error {
	if err := os.RemoveAll(n.tree.root); err != nil {
		return err
	}
	if err := copyTree(d.files, n.tree.root); err != nil {
		return err
	}
	n.tree.mu.Lock()
	n.tree.owners = maps.Clone(d.owners)
	n.tree.mu.Unlock()
	n.packages.putBack(d.packages)
	n.docker.putBack(d.docker)
	if d.config != nil {
		n.cluster.kato.SetConfig(d.config)
	}
	if d.kato != nil {
		n.cluster.kato.PutBackUpgrade(*d.kato)
	}
	n.emptyMemory()
	return nil
}

func (s *packageState) disk() packageDisk {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := packageDisk{pkgs: map[string]packageEntry{}, pending: slices.Clone(s.pending), fresh: s.fresh, kernels: slices.Clone(s.kernels), holds: maps.Clone(s.holds), required: slices.Clone(s.required)}
	for name, e := range s.pkgs {
		d.pkgs[name] = *e
	}
	return d
}

func (s *packageState) putBack(d packageDisk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pkgs = map[string]*packageEntry{}
	for name, e := range d.pkgs {
		s.pkgs[name] = &e
	}
	s.pending, s.fresh, s.kernels, s.holds, s.required = slices.Clone(d.pending), d.fresh, slices.Clone(d.kernels), maps.Clone(d.holds), slices.Clone(d.required)
}

// copyTree copies a folder with its links, modes and times. What vanishes meanwhile is not in the copy, as after a power cut.
func copyTree(from, to string) error {
	type stamped struct {
		path string
		info fs.FileInfo
	}
	var folders []stamped
	names := map[uint64]string{} // of files with several, by inode
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) && path != from {
				return nil
			}
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rest)
		info, err := entry.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			folders = append(folders, stamped{target, info})
			return os.MkdirAll(target, 0o755)
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case !info.Mode().IsRegular():
			return nil
		}
		if inode, links, _ := inodeOf(info, path); links > 1 {
			if first, ok := names[inode]; ok {
				return os.Link(first, target)
			}
			names[inode] = target
		}
		content, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			err = os.WriteFile(target, content, 0o600)
		}
		if err == nil {
			err = os.Chmod(target, info.Mode())
		}
		if err == nil {
			err = os.Chtimes(target, info.ModTime(), info.ModTime())
		}
		return err
	})
	for _, f := range slices.Backward(folders) { // the inner ones first: what is made in a folder changes its time
		if err == nil {
			err = os.Chmod(f.path, f.info.Mode())
		}
		if err == nil {
			err = os.Chtimes(f.path, f.info.ModTime(), f.info.ModTime())
		}
	}
	return err
}
