package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// packages of the lab's security archive: version 1 is in the golden tree, version 2 is pending on every host.
type packageSource struct {
	name string
	// about says what its installation does.
	about string
	// postinst of version 2; version 1 has none.
	postinst string
}

// PackageSlow and the others are the names of the lab's packages.
const (
	PackageQuick  = "katoflow-lab-quick"
	PackageSlow   = "katoflow-lab-slow"
	PackageReboot = "katoflow-lab-reboot"
	PackageSSH    = "katoflow-lab-ssh"
	// PackageBroken is on hold; Host.Release lets it be upgraded, and its configuration fails until Host.Mend.
	PackageBroken = "katoflow-lab-broken"
)

var packageSources = []packageSource{
	{PackageQuick, "nothing special", ""},
	{PackageSlow, "its configuration takes as many seconds as /etc/katoflow-lab/slow says", `n=$(cat /etc/katoflow-lab/slow 2>/dev/null || echo 1)
echo "configuring for $n s"
sleep "$n"`},
	{PackageReboot, "asks for a reboot", `echo '*** System restart required ***' >/run/reboot-required
echo ` + PackageReboot + ` >>/run/reboot-required.pkgs`},
	{PackageSSH, "restarts sshd in mid-run", `if [ -d /run/systemd/system ]; then systemctl restart ssh.service; fi`},
	{PackageBroken, "its configuration fails until /etc/katoflow-lab/mended is there", `[ -e /etc/katoflow-lab/mended ] || { echo 'cannot be configured: the disk of the archive is on fire' >&2; exit 1; }`},
}

// buildPackages writes the packages of one version into dir.
func buildPackages(ctx context.Context, dir, version string) error {
	work, err := os.MkdirTemp("", "katoflow-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, p := range packageSources {
		root := filepath.Join(work, p.name)
		control := fmt.Sprintf("Package: %s\nVersion: %s\nSection: admin\nPriority: optional\nArchitecture: all\nMaintainer: lab <root@localhost>\nDescription: package of the lab\n %s.\n", p.name, version, p.about)
		files := map[string]string{"DEBIAN/control": control, "usr/share/" + p.name + "/version": version + "\n"}
		if p.postinst != "" && version != "1.0" {
			files["DEBIAN/postinst"] = "#!/bin/sh\nset -e\n[ \"$1\" = configure ] || exit 0\n" + p.postinst + "\n"
		}
		for name, text := range files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				return err
			}
		}
		if err := run(ctx, "dpkg-deb", "--root-owner-group", "-Zgzip", "-b", root, filepath.Join(dir, p.name+"_"+version+"_all.deb")); err != nil {
			return err
		}
	}
	return nil
}

// serveArchive builds version 2 of the packages and serves them as Debian's security archive.
func (l *Lab) serveArchive() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := filepath.Join(l.cfg.Dir, "archive")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := buildPackages(ctx, dir, "2.0"); err != nil {
		return err
	}
	index, err := output(ctx, "sh", "-c", `cd "$1" && apt-ftparchive packages .`, "sh", dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Packages"), []byte(index), 0o644); err != nil {
		return err
	}
	argv := []string{"apt-ftparchive"}
	for k, v := range map[string]string{"Origin": "Debian", "Label": "Debian-Security", "Suite": "stable-security", "Codename": "bookworm-security"} {
		argv = append(argv, "-o", "APT::FTPArchive::Release::"+k+"="+v)
	}
	release, err := output(ctx, append(argv, "release", dir)...)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Release"), []byte(release), 0o644); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(l.bridge.String(), "0"))
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(listener.Addr().String(), ":")
	if l.port, err = strconv.Atoi(port); err != nil {
		return err
	}
	l.server = &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = l.server.Serve(listener) }()
	return nil
}
