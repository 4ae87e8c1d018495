package activities

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/katoflow/katoflow/internal/remote"
)

// knownState is "known", "new" (no key of this type is known for h) or "changed" (another one is).
func knownState(h remote.Host, key ssh.PublicKey) (string, error) {
	var files []string
	for _, f := range h.KnownHosts {
		switch info, err := os.Stat(f); {
		case err == nil && info.Mode().IsRegular():
			files = append(files, f)
		case err == nil:
			return "", fmt.Errorf("%s is no file: correct ssh.known_hosts", f)
		case !errors.Is(err, os.ErrNotExist):
			return "", err
		}
	}
	if len(files) == 0 {
		return "new", nil
	}
	check, err := knownhosts.New(files...)
	if err != nil {
		return "", err
	}
	port := h.Port
	if port == 0 {
		port = 22
	}
	err = check(net.JoinHostPort(h.Address, strconv.Itoa(port)), &net.TCPAddr{}, key)
	var unknown *knownhosts.KeyError
	switch {
	case err == nil:
		return "known", nil
	case !errors.As(err, &unknown):
		return "", err // revoked
	}
	for _, want := range unknown.Want {
		if want.Key.Type() == key.Type() {
			return "changed", nil
		}
	}
	return "new", nil
}
