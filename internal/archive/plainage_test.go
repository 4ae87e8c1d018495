package archive

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// runAge is `age -d -i FILE`, for the loop of the documentation: this test binary stands in for the program.
func runAge() error {
	if len(os.Args) != 4 || os.Args[1] != "-d" || os.Args[2] != "-i" {
		return fmt.Errorf("not understood: %q", os.Args)
	}
	key, err := os.ReadFile(os.Args[3])
	if err != nil {
		return err
	}
	ids, err := age.ParseIdentities(bytes.NewReader(key))
	if err != nil {
		return err
	}
	plaintext, err := age.Decrypt(os.Stdin, ids...)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, plaintext)
	return err
}

func TestArchive_Encrypted_IsReadByTheDocumentedLoopOfPlainAge(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	loop := regexp.MustCompile(`(?s)//\tawk .*?//\tdone >plain\.tgz\n`).FindString(string(doc))
	require.NotEmpty(t, loop)
	loop = regexp.MustCompile(`(?m)^//\t`).ReplaceAllString(loop, "")

	b := newBucket(t, false)
	s := b.open(t)
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	source := newMemory(1, 16*mib+5)
	ref := Ref{"prod", "1"}
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib, Recipients: []string{identity.Recipient().String()}})
	dir := t.TempDir()
	export, manifest := s.Key(ref)
	for key, name := range map[string]string{export: "export.tgz", manifest: "manifest.json"} {
		data, err := s.get(t.Context(), key, 64*mib)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.txt"), []byte(identity.String()+"\n"), 0o600))
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "age")))
	run := func() error {
		cmd := exec.Command("sh", "-c", loop)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	require.NoError(t, run())
	got, err := os.ReadFile(filepath.Join(dir, "plain.tgz"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(source.data, got), "%d bytes", len(got))

	stored, err := os.ReadFile(filepath.Join(dir, "export.tgz"))
	require.NoError(t, err)
	stored[7*mib] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(dir, "export.tgz"), stored, 0o600))
	require.Error(t, run(), "a changed part")
}
