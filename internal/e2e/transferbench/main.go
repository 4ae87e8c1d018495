// Command transferbench measures how an archive comes from a node into a bucket, and prints JSON. `make bench-transfer`, `make bench` and `make lab-bench` run it.
//
// A large file that cannot be compressed lies behind OpenSSH's sshd on loopback, or on a real host of the lab (-lab); S3 is devstack's. In each round it is moved by the peer (`ssh NODE cat FILE | rclone rcat`),
// by the worker (ranges read over SSH) and by the node itself (curl to presigned URLs), in turn, so that whatever else the machine does hurts all of them alike. Each of
// katoflow's transfers is a process of its own, so that its CPU time and memory are nobody else's, and does all that an operation does: every part's SHA-256 is computed on the
// node, the whole file's is confirmed there afterwards, and the manifest is written. The peer checks nothing of the sort.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest"
	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
)

// figures are the output.
type figures struct {
	// Node is what the file lies on.
	Node  string `json:"node"`
	Bytes int64  `json:"bytes"`
	CPUs  int    `json:"cpus"`
	// Rclone is what it says of its version.
	Rclone string `json:"rclone_version"`

	Peer   times `json:"ssh_cat_rclone_rcat"`
	Worker times `json:"katoflow_worker"`
	Direct times `json:"katoflow_direct"`
	// The ratios are of speeds in the same round: above 1 the first is faster.
	WorkerToPeer   ratios `json:"speed_of_worker_to_peer"`
	DirectToWorker ratios `json:"speed_of_direct_to_worker"`
	// PeakMiB of the worker's process by the size of what it moves, in GiB.
	PeakMiB map[string]float64 `json:"worker_peak_mib_by_gib"`
}

type times struct {
	Seconds []float64 `json:"s"`
	Median  float64   `json:"median_s"`
	// CPU seconds of katoflow's own process; none for the peer.
	CPU []float64 `json:"own_cpu_s,omitempty"`
}

type ratios struct {
	Each   []float64 `json:"each"`
	Median float64   `json:"median"`
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == childArgument {
		if err := child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	gib := flag.Float64("gib", 2, "size of the file in GiB")
	rounds := flag.Int("rounds", 3, "rounds")
	memory := flag.String("memory", "1,4", "sizes in GiB at which the worker's memory is shown")
	rclone := flag.String("rclone", "", "rclone to compare with (default: bin/rclone)")
	onLab := flag.Bool("lab", false, "the node is a real host of the lab (root on Linux)")
	flag.Parse()
	out, err := measure(*gib, *rounds, *memory, *rclone, *onLab)
	if err != nil {
		fmt.Fprintln(os.Stderr, "transferbench:", err)
		os.Exit(1)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(out)
}

type bench struct {
	dir    string
	node   node
	bucket *archivetest.Bucket
	// endpoint of S3 for the node and for this machine, the same for every contender.
	endpoint string
	rclone   string
	number   int
}

func measure(gib float64, rounds int, memory, rclone string, onLab bool) (out figures, err error) {
	if gib <= 0 || rounds < 1 {
		return out, errors.New("a size above 0 and at least one round")
	}
	b := &bench{rclone: cmp.Or(rclone, filepath.Join(harness.Root(), "bin", "rclone"))}
	version, err := exec.Command(b.rclone, "version").Output()
	if err != nil {
		return out, fmt.Errorf("rclone cannot be run, make bench-transfer builds it: %w", err)
	}
	out.Rclone, _, _ = strings.Cut(string(version), "\n")
	out.CPUs, out.PeakMiB = runtime.NumCPU(), map[string]float64{}
	if b.dir, err = os.MkdirTemp("", "katoflow-transferbench-"); err != nil {
		return out, err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	server, err := harness.StartTemporal(filepath.Join(b.dir, "temporal"))
	if err != nil {
		return out, err
	}
	defer func() { _ = server.Stop() }()
	if b.bucket, err = archivetest.NewBucket(context.Background(), server.S3, "bench", false); err != nil {
		return out, err
	}
	defer b.bucket.Close()
	out.Node = "OpenSSH on loopback"
	if onLab {
		out.Node = "a real host of the lab"
		b.node, err = startLabNode()
	} else {
		b.node, err = startSSHD(filepath.Join(b.dir, "sshd"), b.dir)
	}
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, b.node.close()) }()
	if b.endpoint, err = b.node.lead(server.S3.URL); err != nil {
		return out, err
	}

	f, err := b.node.make(int64(gib * (1 << 30)))
	if err != nil {
		return out, err
	}
	out.Bytes = f.size
	contenders := []struct {
		name string
		into *times
		run  func(file) (result, error)
	}{
		{"ssh cat | rclone rcat", &out.Peer, b.peer},
		{"katoflow, worker", &out.Worker, func(f file) (result, error) { return b.katoflow(f, operation.TransferWorker) }},
		{"katoflow, direct", &out.Direct, func(f file) (result, error) { return b.katoflow(f, operation.TransferDirect) }},
	}
	for round := range rounds {
		for i := range contenders {
			c := contenders[(round+i)%len(contenders)]
			r, err := c.run(f)
			if err != nil {
				return out, fmt.Errorf("%s: %w", c.name, err)
			}
			c.into.Seconds = append(c.into.Seconds, rounded(r.Seconds))
			if r.CPU > 0 {
				c.into.CPU = append(c.into.CPU, rounded(r.CPU))
			}
			fmt.Fprintf(os.Stderr, "round %d: %s: %.2f s, own CPU %.2f s, peak %.0f MiB\n", round+1, c.name, r.Seconds, r.CPU, r.PeakMiB)
		}
	}
	for _, c := range contenders {
		c.into.Median = median(c.into.Seconds)
	}
	out.WorkerToPeer, out.DirectToWorker = compare(out.Peer, out.Worker), compare(out.Worker, out.Direct)
	if err := b.node.remove(f); err != nil {
		return out, err
	}
	for size := range strings.SplitSeq(memory, ",") {
		var gib float64
		if size == "" {
			continue
		}
		if _, err := fmt.Sscan(size, &gib); err != nil {
			return out, fmt.Errorf("-memory %q: %w", memory, err)
		}
		f, err := b.node.make(int64(gib * (1 << 30)))
		if err != nil {
			return out, err
		}
		r, err := b.katoflow(f, operation.TransferWorker)
		if err != nil {
			return out, fmt.Errorf("memory at %s GiB: %w", size, err)
		}
		out.PeakMiB[size] = rounded(r.PeakMiB)
		fmt.Fprintf(os.Stderr, "%s GiB: peak %.0f MiB\n", size, r.PeakMiB)
		if err := b.node.remove(f); err != nil {
			return out, err
		}
	}
	return out, nil
}

// peer is ssh NODE cat FILE | rclone rcat, with rclone's own settings.
func (b *bench) peer(f file) (result, error) {
	cat := b.node.reached().ssh("cat", f.path)
	rcat := exec.Command(b.rclone, "rcat", "--config", os.DevNull, "--size", fmt.Sprint(f.size), ":s3:"+b.bucket.Name+"/peer")
	rcat.Env = append(os.Environ(), "RCLONE_S3_PROVIDER=Other", "RCLONE_S3_ENDPOINT="+b.endpoint, "RCLONE_S3_ACCESS_KEY_ID="+b.bucket.Server.AccessKey,
		"RCLONE_S3_SECRET_ACCESS_KEY="+b.bucket.Server.SecretKey, "RCLONE_S3_REGION="+b.bucket.Server.Region, "RCLONE_S3_FORCE_PATH_STYLE=true", "RCLONE_S3_NO_CHECK_BUCKET=true")
	r, w, err := os.Pipe()
	if err != nil {
		return result{}, err
	}
	cat.Stdout, rcat.Stdin = w, r
	var complaint strings.Builder
	rcat.Stderr = &complaint
	began := time.Now()
	err = errors.Join(cat.Start(), rcat.Start())
	_, _ = r.Close(), w.Close()
	if err == nil {
		err = errors.Join(cat.Wait(), rcat.Wait())
	}
	took := time.Since(began).Seconds()
	if err != nil {
		return result{}, fmt.Errorf("%w: %s", err, complaint.String())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	head, err := b.bucket.Client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.bucket.Name, Key: aws.String("peer")})
	if err != nil || aws.ToInt64(head.ContentLength) != f.size {
		return result{}, fmt.Errorf("the object has %d of %d bytes: %w", aws.ToInt64(head.ContentLength), f.size, err)
	}
	_, err = b.bucket.Client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.bucket.Name, Key: aws.String("peer")})
	return result{Seconds: took}, err
}

// katoflow runs a transfer in a process of its own, and removes the archive.
func (b *bench) katoflow(f file, mode operation.TransferMode) (result, error) {
	b.number++
	ref := archive.Ref{Cluster: "bench", Operation: fmt.Sprintf("run-%d", b.number)}
	var out result
	self, err := os.Executable()
	if err != nil {
		return out, err
	}
	text, err := json.Marshal(order{Node: b.node.reached(), File: f.path, SHA256: f.sum, Endpoint: b.endpoint, Region: b.bucket.Server.Region, Bucket: b.bucket.Name,
		AccessKey: b.bucket.Server.AccessKey, SecretKey: b.bucket.Server.SecretKey, Ref: ref, Mode: mode})
	if err != nil {
		return out, err
	}
	cmd := exec.Command(self, childArgument)
	cmd.Stdin = strings.NewReader(string(text))
	var complaint strings.Builder
	cmd.Stderr = &complaint
	answer, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, complaint.String())
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, err
	}
	store, err := archive.Open(archive.Config{Endpoint: b.endpoint, Region: b.bucket.Server.Region, Bucket: b.bucket.Name, AccessKey: b.bucket.Server.AccessKey,
		SecretKey: b.bucket.Server.SecretKey, PathStyle: true}, nil)
	if err != nil {
		return out, err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Only a complete archive has a manifest.
	if m, err := store.Manifest(ctx, ref); err != nil || m.SHA256 != f.sum || m.Size != f.size {
		return out, fmt.Errorf("the archive is not the file: %w", err)
	}
	return out, store.Delete(ctx, ref, false)
}

// compare gives the speed of the second to the first.
func compare(first, second times) (out ratios) {
	for i := range first.Seconds {
		out.Each = append(out.Each, rounded(first.Seconds[i]/second.Seconds[i]))
	}
	out.Median = median(out.Each)
	return out
}

func rounded(v float64) float64 { return float64(int(v*1000+0.5)) / 1000 }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return rounded((v[n/2-1] + v[n/2]) / 2)
	}
	return v[len(v)/2]
}
