package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/lab"
)

// labNode is a real host: Debian with systemd and sshd in namespaces of its own, reached over a network of the lab.
type labNode struct {
	lab     *lab.Lab
	cluster *lab.Cluster
	host    *lab.Host
}

const (
	// labDisk is room for the largest file, and for what the host writes.
	labDisk  = 12 << 30
	labBoot  = 5 * time.Minute
	labWrite = 10 * time.Minute
)

func startLabNode() (_ *labNode, err error) {
	if err := lab.Supported(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), labBoot)
	defer cancel()
	n := &labNode{}
	if n.lab, err = lab.Open(ctx, lab.Config{Name: "tbench", Log: func(format string, args ...any) {
		if strings.Contains(format, "golden") {
			fmt.Fprintf(os.Stderr, format+"\n", args...)
		}
	}}); err != nil {
		return nil, err
	}
	if n.cluster, err = n.lab.Start(ctx, lab.ClusterConfig{Name: "transfer", Platform: "plain", DiskSize: labDisk, Nodes: []lab.NodeConfig{{Name: "node"}}}); err != nil {
		return nil, errors.Join(err, n.lab.Close())
	}
	n.host = n.cluster.Hosts()[0]
	return n, nil
}

func (n *labNode) reached() login {
	return login{Address: n.host.Address(), Port: 22, User: lab.LoginUser, Key: n.cluster.ClientKeyPath(), KnownHosts: n.cluster.KnownHostsPath()}
}

func (n *labNode) lead(endpoint string) (string, error) {
	addr, err := n.lab.Forward(strings.TrimPrefix(endpoint, "http://"))
	return "http://" + addr, err
}

func (n *labNode) make(size int64) (file, error) {
	ctx, cancel := context.WithTimeout(context.Background(), labWrite)
	defer cancel()
	f := file{path: "/var/tmp/export.tgz", size: size}
	sum, err := n.host.Exec(ctx, `head -c "$2" /dev/urandom >"$1" && chmod 644 "$1" && sync "$1" && sha256sum <"$1"`, f.path, fmt.Sprint(size))
	f.sum, _, _ = strings.Cut(sum, " ")
	if err == nil && len(f.sum) != 64 {
		err = fmt.Errorf("no checksum of the file: %q", sum)
	}
	return f, err
}

func (n *labNode) remove(f file) error {
	ctx, cancel := context.WithTimeout(context.Background(), labWrite)
	defer cancel()
	_, err := n.host.Exec(ctx, `rm -f "$1"`, f.path)
	return err
}

func (n *labNode) close() error { return errors.Join(n.cluster.Close(), n.lab.Close()) }
