package katodouble

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// RelocateName is the name that the scripts of a relocation have, by which a rule of sudo, and what reads its log, tell them from others.
const RelocateName = "kato-relocate"

// OSFolders are those of the machine the process runs on. What needs root is done with sudo, unless the process is root's.
type OSFolders struct{}

// root runs a shell script as root. Its arguments are $1 and so on.
func (OSFolders) root(ctx context.Context, stdin, script string, args ...string) (out string, err error) {
	argv := append([]string{"sh", "-c", "export LC_ALL=C\n" + script, RelocateName}, args...)
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	text := strings.TrimSpace(stderr.String())
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil:
		return stdout.String(), nil
	case strings.Contains(text, "No space left on device"):
		return "", syscall.ENOSPC
	case text != "":
		first, _, _ := strings.Cut(text, "\n")
		return "", errors.New(first)
	}
	return "", err
}

// Resolve follows the links of a folder's name.
func (f OSFolders) Resolve(ctx context.Context, name string) (string, error) {
	out, err := f.root(ctx, "", `cd -P -- "$1" && pwd -P`, name)
	return strings.TrimSuffix(out, "\n"), err
}

// is tests a name with test(1).
func (f OSFolders) is(ctx context.Context, condition, name string) (bool, error) {
	out, err := f.root(ctx, "", `if [ `+condition+` ]; then echo yes; fi`, name)
	return out != "", err
}

// Exists looks for a name.
func (f OSFolders) Exists(ctx context.Context, name string) (bool, error) {
	return f.is(ctx, `-e "$1" ] || [ -L "$1"`, name)
}

// IsLink looks whether it is a link.
func (f OSFolders) IsLink(ctx context.Context, name string) (bool, error) {
	return f.is(ctx, `-L "$1"`, name)
}

// List runs find.
func (f OSFolders) List(ctx context.Context, folder string) (out []Relocated, err error) {
	text, err := f.root(ctx, "", `exec find "$1" ! -type s -printf '%y %D:%i %U %P\0'`, folder)
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\x00"), "\x00") {
		w := strings.SplitN(line, " ", 4)
		if len(w) < 4 {
			continue
		}
		if w[3] == "" {
			w[3] = "."
		}
		out = append(out, Relocated{Name: w[3], Folder: w[0] == "d", Regular: w[0] == "f", File: w[1], Root: w[2] == "0"})
	}
	return out, nil
}

// Copy pipes the entries through tar, which keeps holes, links and owners as cp -a does, and goes into no folder by itself.
func (f OSFolders) Copy(ctx context.Context, from, to string, entries []Relocated) error {
	var names strings.Builder
	for _, e := range entries {
		names.WriteString("./" + e.Name + "\x00")
	}
	_, err := f.root(ctx, names.String(), `made=$( { { tar -C "$1" --null --no-recursion --verbatim-files-from -T - --format=posix -S -cf -; echo $? >&3; } | tar -C "$2" --numeric-owner --same-owner -S -xpf - 3>&-; } 3>&1 ) && [ "$made" = 0 ]`, from, to)
	return err
}

// GiveToRoot runs chown.
func (f OSFolders) GiveToRoot(ctx context.Context, name string) error {
	_, err := f.root(ctx, "", `exec chown -h 0:0 -- "$1"`, name)
	return err
}

// Empty truncates a file.
func (f OSFolders) Empty(ctx context.Context, name string) error {
	_, err := f.root(ctx, "", `[ ! -f "$1" ] || : >"$1"`, name)
	return err
}

// Switch puts the link in place.
func (f OSFolders) Switch(ctx context.Context, name, target, aside string) error {
	_, err := f.root(ctx, "", `set -e
if [ -L "$1" ]; then
  rm -f -- "$1"
elif [ -n "$3" ]; then
  mv -T -- "$1" "$3"
else
  rm -rf --one-file-system -- "$1"
fi
exec ln -s -- "$2" "$1"`, name, target, aside)
	return err
}
