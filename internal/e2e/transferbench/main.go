// Command transferbench measures how an archive comes from a node into a bucket and back, and prints JSON. `make bench-transfer`, `make bench` and `make lab-bench` run it.
//
// A large file that cannot be compressed lies behind OpenSSH's sshd on loopback, or on a real host of the lab (-lab); S3 is devstack's. In each round it is moved by the peer (`ssh NODE cat FILE | rclone rcat`),
// by the worker (ranges read over SSH) and by the node itself (curl to presigned URLs), in turn, so that whatever else the machine does hurts all of them alike. Each of
// katoflow's transfers is a process of its own, so that its CPU time and memory are nobody else's, and does all that an operation does: every part's SHA-256 is computed on the
// node, the whole file's is confirmed there afterwards, and the manifest is written. The peer checks nothing of the sort.
//
// Then it is brought back in the same way: by the peer (`rclone cat | ssh NODE 'cat >FILE'`), through the worker, and by the node itself. katoflow reads each part back on the node and compares
// it with the manifest within the time that counts; what the peer wrote is compared afterwards.
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

	// The same of the way back.
	Back struct {
		Peer           times  `json:"rclone_cat_ssh_cat"`
		Worker         times  `json:"katoflow_worker"`
		Direct         times  `json:"katoflow_direct"`
		WorkerToPeer   ratios `json:"speed_of_worker_to_peer"`
		DirectToPeer   ratios `json:"speed_of_direct_to_peer"`
		DirectToWorker ratios `json:"speed_of_direct_to_worker"`
		// PeakMiB of the worker's process by the size of what it moves, in GiB.
		PeakMiB map[string]float64 `json:"worker_peak_mib_by_gib"`
	} `json:"download"`
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
	out.CPUs, out.PeakMiB, out.Back.PeakMiB = runtime.NumCPU(), map[string]float64{}, map[string]float64{}
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
	err = inTurn(rounds, []contender{
		{"ssh cat | rclone rcat", &out.Peer, func() (result, error) { return b.peer(f) }},
		{"katoflow, worker", &out.Worker, func() (result, error) { return b.stored(f, operation.TransferWorker, nil) }},
		{"katoflow, direct", &out.Direct, func() (result, error) { return b.stored(f, operation.TransferDirect, nil) }},
	})
	if err != nil {
		return out, err
	}
	out.WorkerToPeer, out.DirectToWorker = compare(out.Peer, out.Worker), compare(out.Worker, out.Direct)
	back := &out.Back
	_, err = b.stored(f, operation.TransferWorker, func(ref archive.Ref, key string) error {
		return inTurn(rounds, []contender{
			{"rclone cat | ssh cat", &back.Peer, func() (result, error) { return b.peerBack(f, key) }},
			{"katoflow, worker, back", &back.Worker, func() (result, error) { return b.fetched(f, ref, operation.TransferWorker) }},
			{"katoflow, direct, back", &back.Direct, func() (result, error) { return b.fetched(f, ref, operation.TransferDirect) }},
		})
	})
	if err != nil {
		return out, err
	}
	back.WorkerToPeer, back.DirectToPeer, back.DirectToWorker = compare(back.Peer, back.Worker), compare(back.Peer, back.Direct), compare(back.Worker, back.Direct)
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
		var fetched result
		r, err := b.stored(f, operation.TransferWorker, func(ref archive.Ref, _ string) (err error) {
			fetched, err = b.fetched(f, ref, operation.TransferWorker)
			return err
		})
		if err != nil {
			return out, fmt.Errorf("memory at %s GiB: %w", size, err)
		}
		out.PeakMiB[size], out.Back.PeakMiB[size] = rounded(r.PeakMiB), rounded(fetched.PeakMiB)
		fmt.Fprintf(os.Stderr, "%s GiB: peak %.0f MiB, back %.0f MiB\n", size, r.PeakMiB, fetched.PeakMiB)
		if err := b.node.remove(f); err != nil {
			return out, err
		}
	}
	return out, nil
}

type contender struct {
	name string
	into *times
	run  func() (result, error)
}

// inTurn runs all of them in each round, each round beginning with another.
func inTurn(rounds int, contenders []contender) error {
	for round := range rounds {
		for i := range contenders {
			c := contenders[(round+i)%len(contenders)]
			r, err := c.run()
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
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
	return nil
}

// rcloneCommand is rclone with its own settings.
func (b *bench) rcloneCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(b.rclone, append(args, "--config", os.DevNull)...)
	cmd.Env = append(os.Environ(), "RCLONE_S3_PROVIDER=Other", "RCLONE_S3_ENDPOINT="+b.endpoint, "RCLONE_S3_ACCESS_KEY_ID="+b.bucket.Server.AccessKey,
		"RCLONE_S3_SECRET_ACCESS_KEY="+b.bucket.Server.SecretKey, "RCLONE_S3_REGION="+b.bucket.Server.Region, "RCLONE_S3_FORCE_PATH_STYLE=true", "RCLONE_S3_NO_CHECK_BUCKET=true")
	return cmd
}

// piped runs two programs, the second of which reads what the first writes, and returns how many seconds it took.
func piped(from, to *exec.Cmd) (float64, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	from.Stdout, to.Stdin = w, r
	var complaints [2]strings.Builder
	from.Stderr, to.Stderr = &complaints[0], &complaints[1]
	began := time.Now()
	err = errors.Join(from.Start(), to.Start())
	_, _ = r.Close(), w.Close()
	if err == nil {
		err = errors.Join(from.Wait(), to.Wait())
	}
	if err != nil {
		err = fmt.Errorf("%w: %s%s", err, complaints[0].String(), complaints[1].String())
	}
	return time.Since(began).Seconds(), err
}

// peer is ssh NODE cat FILE | rclone rcat.
func (b *bench) peer(f file) (result, error) {
	took, err := piped(b.node.reached().ssh("cat", f.path), b.rcloneCommand("rcat", "--size", fmt.Sprint(f.size), ":s3:"+b.bucket.Name+"/peer"))
	if err != nil {
		return result{}, err
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

// peerBack is rclone cat | ssh NODE 'cat >FILE'.
func (b *bench) peerBack(f file, key string) (result, error) {
	took, err := piped(b.rcloneCommand("cat", ":s3:"+b.bucket.Name+"/"+key), b.node.reached().sshReading("cat >"+f.back()))
	return result{Seconds: took}, errors.Join(err, b.arrived(f))
}

// arrived compares what came back with the file, and removes it.
func (b *bench) arrived(f file) error {
	sum, err := b.node.reached().ssh("sha256sum <" + f.back() + " && rm " + f.back()).Output()
	if err == nil && !strings.HasPrefix(string(sum), f.sum+" ") {
		err = errors.New("what came back is not the file")
	}
	return err
}

// fetched brings the archive back in a process of its own.
func (b *bench) fetched(f file, ref archive.Ref, mode operation.TransferMode) (result, error) {
	out, err := b.katoflow(order{File: f.back(), Ref: ref, Mode: mode, Fetch: true})
	if err != nil {
		return out, err
	}
	return out, b.arrived(f)
}

// stored moves the file into the bucket in a process of its own, does something with the archive, and removes it.
func (b *bench) stored(f file, mode operation.TransferMode, with func(ref archive.Ref, key string) error) (result, error) {
	b.number++
	ref := archive.Ref{Cluster: "bench", Operation: fmt.Sprintf("run-%d", b.number)}
	out, err := b.katoflow(order{File: f.path, SHA256: f.sum, Ref: ref, Mode: mode})
	if err != nil {
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
	if with != nil {
		key, _ := store.Key(ref)
		if err := with(ref, key); err != nil {
			return out, err
		}
		ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
	}
	return out, store.Delete(ctx, ref, false)
}

// katoflow runs one transfer in a process of its own.
func (b *bench) katoflow(o order) (out result, err error) {
	self, err := os.Executable()
	if err != nil {
		return out, err
	}
	o.Node, o.Endpoint, o.Region, o.Bucket = b.node.reached(), b.endpoint, b.bucket.Server.Region, b.bucket.Name
	o.AccessKey, o.SecretKey = b.bucket.Server.AccessKey, b.bucket.Server.SecretKey
	text, err := json.Marshal(o)
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
	return out, json.Unmarshal(answer, &out)
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
