package archive

import (
	"strings"

	"github.com/katoflow/katoflow/internal/remote"
)

// The objects of one archive, in the folder PREFIX/CLUSTER/OPERATION.
const (
	exportName    = "export.tgz"
	manifestName  = "manifest.json"
	verifiedName  = "verified.json"
	rehearsedName = "rehearsed.json"
	// stateName is there only while the transfer is under way.
	stateName = "upload.json"
	probeName = "katoflow-probe"
)

// Ref names one archive: the export that one operation made of one cluster.
type Ref struct {
	Cluster   string `json:"cluster"`
	Operation string `json:"operation"`
}

func (r Ref) String() string { return remote.Escape(r.Cluster + "/" + r.Operation) }

func (r Ref) check() error {
	for _, part := range []struct{ name, value string }{{"cluster", r.Cluster}, {"operation", r.Operation}} {
		if part.value == "" {
			return badInput("archive: %s is missing", part.name)
		}
		// S3's keys end at 1,024 bytes, and 400 may be the prefix.
		if n := len(remote.EncodeID(part.value)); n > 300 {
			return badInput("archive: %s is %d bytes long when encoded as a key; at most 300 are possible", part.name, n)
		}
	}
	return nil
}

// Key returns the key of the archive's object, and of its manifest beside it: PREFIX/CLUSTER/OPERATION/export.tgz and
// manifest.json, cluster and operation encoded as remote.EncodeID does.
func (s *Store) Key(ref Ref) (export, manifest string) {
	return s.key(ref, exportName), s.key(ref, manifestName)
}

func (s *Store) key(ref Ref, name string) string {
	return s.folder(ref.Cluster) + remote.EncodeID(ref.Operation) + "/" + name
}

// folder returns the prefix of a cluster's keys, that of all clusters for "".
func (s *Store) folder(cluster string) string {
	folder := ""
	if s.cfg.Prefix != "" {
		folder = s.cfg.Prefix + "/"
	}
	if cluster != "" {
		folder += remote.EncodeID(cluster) + "/"
	}
	return folder
}

// parseKey returns whose object a key is, ok only for keys that this package writes.
func (s *Store) parseKey(key string) (ref Ref, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, s.folder(""))
	if !ok {
		return Ref{}, "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return Ref{}, "", false
	}
	switch parts[2] {
	case exportName, manifestName, verifiedName, rehearsedName, stateName:
	default:
		return Ref{}, "", false
	}
	cluster, err := remote.DecodeID(parts[0])
	if err != nil || cluster == "" {
		return Ref{}, "", false
	}
	operation, err := remote.DecodeID(parts[1])
	if err != nil || operation == "" {
		return Ref{}, "", false
	}
	return Ref{cluster, operation}, parts[2], true
}
