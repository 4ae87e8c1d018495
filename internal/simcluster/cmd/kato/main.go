// Command kato is the kato of the lab's nodes: the kato double with the state of every node kept by `kato agent` on it.
//
//	kato agent [--config /etc/kato/node.json]
//	kato COMMAND...
//
// KATO_SITE names another node.json. See katodouble for its shape and for the agent's requests, by which tests inject faults.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // what was begun ends, whoever reads
	path := os.Getenv("KATO_SITE")
	if path == "" {
		path = katodouble.SitePath
	}
	if len(args) > 0 && args[0] == "agent" {
		if err := agent(ctx, path, args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "kato agent:", err)
			return 1
		}
		return 0
	}
	site, err := katodouble.ReadSite(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ERROR: this node is not part of a cluster:", err)
		return 1
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	return site.Run(ctx, katodouble.Invocation{
		Args: args, UID: os.Getuid(), Home: os.Getenv("HOME"), Path: os.Getenv("PATH"), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Dir: dir, Files: katodouble.OSFiles{}, Folders: katodouble.OSFolders{}, SSH: katodouble.OSSSH,
	}, katodouble.JobOf("/proc", os.Getpid()))
}

func agent(ctx context.Context, path string, args []string) error {
	switch {
	case len(args) == 0:
	case len(args) == 2 && args[0] == "--config":
		path = args[1]
	default:
		return fmt.Errorf("usage: kato agent [--config FILE]")
	}
	site, err := katodouble.ReadSite(path)
	if err != nil {
		return err
	}
	return katodouble.ServeAgent(ctx, site, started)
}

// started tells systemd that the agent answers (sd_notify(3)).
func started() {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kato agent: systemd cannot be told of the start:", err)
		return
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		fmt.Fprintln(os.Stderr, "kato agent: systemd cannot be told of the start:", err)
	}
}
