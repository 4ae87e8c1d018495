package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// BaseImage is the base image of app containers, which hosts with ClusterConfig.Images have under the tags kato-patched and latest. In it the same packages are pending
// as on a host, from the lab's archive.
const BaseImage = "stackato/stack-alsek"

// imageSlow is how long the configuration of PackageSlow takes in a build.
const imageSlow = "3"

// seedImage is BaseImage without what differs from lab to lab.
const seedImage = "katoflow-lab:seed"

//go:embed files/image.sh
var imageScript string

// seedRegistry is where the seed is pushed when it is made, in a network that nothing else is in.
const seedRegistry = "127.0.0.1:5000"

// imageData returns a folder with the data of a docker daemon that has the base image, to be copied for a host's daemon; it is made for the first host that asks. The files
// of the image are not in it: they stay in the cache, and a link leads there.
func (l *Lab) imageData(ctx context.Context) (string, error) {
	l.imageMu.Lock()
	defer l.imageMu.Unlock()
	if l.image != "" {
		return l.image, nil
	}
	seed, err := l.seedData(ctx)
	if err != nil {
		return "", err
	}
	d := l.imageDaemon("image")
	if err := os.RemoveAll(d.dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return "", err
	}
	if err := run(ctx, "cp", "-a", seed, filepath.Join(d.dir, "data")); err != nil {
		return "", err
	}
	// The daemons know by which digests a registry has the seed's layers, as those of a site do, which have fetched them. The lab's registry has them too: only what is
	// new is sent there and fetched, which saves 10 s of compressing and unpacking.
	known, err := filepath.Glob(d.dir + "/data/image/overlay2/distribution/v2metadata-by-diffid/*/*")
	if err != nil {
		return "", err
	}
	for _, file := range known {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(file, bytes.ReplaceAll(b, []byte(seedRegistry), []byte(l.registryAddress())), 0o600); err != nil {
			return "", err
		}
	}
	archive := fmt.Sprintf("deb [trusted=yes] http://%s:%d ./\n", l.bridge, l.port)
	files, err := tarOf(map[string]string{"Dockerfile": "FROM " + seedImage + "\nCOPY etc /etc\n", "etc/apt/sources.list": archive, "etc/katoflow-lab/slow": imageSlow + "\n"})
	if err != nil {
		return "", err
	}
	err = d.with(ctx, []string{"unshare", "--net"}, func() error {
		if _, err := d.docker(ctx, bytes.NewReader(files), "build", "-t", BaseImage+":kato-patched", "-t", BaseImage+":latest", "-"); err != nil {
			return err
		}
		_, err := d.docker(ctx, nil, "rmi", seedImage)
		return err
	})
	if err != nil {
		return "", err
	}
	if err := onlyImages(d.dir + "/data"); err != nil {
		return "", err
	}
	if kept := filepath.Join(filepath.Dir(seed), "registry"); exists(kept) {
		l.seedRegistry = kept
	}
	l.image = d.dir + "/data"
	return l.image, nil
}

// seedData returns the same with seedImage, from the cache.
func (l *Lab) seedData(ctx context.Context) (string, error) {
	// Without a registry here an image is made that none has.
	registry, err := exec.LookPath(registryProgram)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s%s%v", imageScript, filepath.Base(l.golden), err == nil))
	place := filepath.Join(l.cfg.Cache, "image-"+hex.EncodeToString(sum[:6]))
	if exists(place) {
		return filepath.Join(place, "data"), nil
	}
	began := time.Now()
	d := l.imageDaemon("seed")
	if err := os.RemoveAll(d.dir); err != nil {
		return "", err
	}
	enter := []string{"unshare", "--net"}
	if registry != "" {
		config, err := writeRegistry(d.dir+"/registry", seedRegistry)
		if err != nil {
			return "", err
		}
		enter = append(enter, "sh", "-c", besideRegistry, "sh", registry, config)
	}
	err = d.with(ctx, enter, func() error {
		if err := d.importSeed(ctx, l.golden); err != nil {
			return err
		}
		if registry == "" {
			return nil
		}
		pushed := seedRegistry + "/" + seedImage
		for _, args := range [][]string{{"tag", seedImage, pushed}, {"push", pushed}, {"rmi", pushed}} {
			if _, err := d.docker(ctx, nil, args...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	data := filepath.Join(d.dir, "data")
	if err := onlyImages(data); err != nil {
		return "", err
	}
	layers, err := filepath.Glob(data + "/overlay2/*/diff")
	if err != nil || len(layers) != 1 {
		return "", errors.Join(fmt.Errorf("docker keeps a new image in %d folders, not in one", len(layers)), err)
	}
	made := filepath.Join(d.dir, "made")
	if err := errors.Join(os.Mkdir(made, 0o755), os.RemoveAll(place+"."+l.cfg.Name)); err != nil {
		return "", err
	}
	for _, step := range []func() error{
		func() error { return os.Rename(layers[0], filepath.Join(made, "layer")) },
		func() error { return os.Symlink(filepath.Join(place, "layer"), layers[0]) },
		func() error { return os.Rename(data, filepath.Join(made, "data")) },
		func() error {
			if registry == "" {
				return nil
			}
			return os.Rename(d.dir+"/registry/data", filepath.Join(made, "registry"))
		},
		// By way of a name of its own, if the cache is on another file system: it gets its name when it is whole.
		func() error { return run(ctx, "mv", made, place+"."+l.cfg.Name) },
		func() error { return os.RemoveAll(d.dir) },
	} {
		if err := step(); err != nil {
			return "", err
		}
	}
	if err := os.Rename(place+"."+l.cfg.Name, place); err != nil {
		if !exists(place) {
			return "", err
		}
		if err := os.RemoveAll(place + "." + l.cfg.Name); err != nil { // another lab was quicker
			return "", err
		}
	}
	l.cfg.Log("the docker base image is made (%s)", time.Since(began).Round(100*time.Millisecond))
	return filepath.Join(place, "data"), nil
}

// importSeed makes seedImage of the golden tree.
func (d *daemon) importSeed(ctx context.Context, golden string) error {
	var complaints bytes.Buffer
	archive := exec.CommandContext(ctx, "sh", "-c", imageScript, "sh", golden)
	archive.Stderr = &complaints
	content, err := archive.StdoutPipe()
	if err != nil {
		return err
	}
	if err := archive.Start(); err != nil {
		return err
	}
	_, err = d.docker(ctx, content, "import", "-", seedImage)
	_ = content.Close()
	if ended := archive.Wait(); ended != nil && err == nil {
		err = fmt.Errorf("the archive of %s: %w: %s", golden, ended, strings.TrimSpace(complaints.String()))
	}
	return err
}

// besideRegistry runs a registry, and then the other arguments.
const besideRegistry = `ip link set lo up
"$1" serve "$2" >"$2.log" 2>&1 &
shift 2
exec "$@"`

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// imageDaemon is a docker daemon that makes an image and ends; its network is one of its own.
func (l *Lab) imageDaemon(name string) *daemon {
	group := "katoflow-" + l.cfg.Name + "/" + name
	return &daemon{dir: filepath.Join(l.cfg.Dir, name), group: group, apps: group + "-apps"}
}

// with runs do while the daemon runs.
func (d *daemon) with(ctx context.Context, enter []string, do func() error) error {
	defer d.kill()
	if err := d.start(ctx, enter, "--bridge=none", "--iptables=false"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	d.end()
	return nil
}

// onlyImages leaves in the data of a daemon that has ended what belongs to images.
func onlyImages(data string) error {
	all, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Name() != "image" && e.Name() != "overlay2" {
			if err := os.RemoveAll(filepath.Join(data, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// tarOf is an archive of files, which belong to root.
func tarOf(files map[string]string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// RunAppContainer starts a container as that of an instance of an app, from the image that is BaseImage:latest on the host, with the environment that kato gives it, and
// returns its id. It does nothing, until it is removed or its host is.
func (h *Host) RunAppContainer(ctx context.Context, name, guid string) (string, error) {
	application, err := json.Marshal(map[string]string{"application_id": guid, "application_name": name})
	if err != nil {
		return "", err
	}
	environment, err := json.Marshal(map[string]string{"STACKATO_APP_NAME": name, "VCAP_APPLICATION": string(application)})
	if err != nil {
		return "", err
	}
	out, err := h.Docker(ctx, "create", "--stop-timeout", "0", "-e", "STACKATO_APP_NAME="+name, BaseImage+":latest", "sleep", "infinity")
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(out))
	files, err := tarOf(map[string]string{"home/" + LoginUser + "/etc/droplet.env.json": string(environment)})
	if err != nil {
		return "", err
	}
	if _, err := h.docker.docker(ctx, bytes.NewReader(files), "cp", "-", id+":/"); err != nil {
		return "", fmt.Errorf("%s: %w", h.Name(), err)
	}
	_, err = h.Docker(ctx, "start", id)
	return id, err
}
