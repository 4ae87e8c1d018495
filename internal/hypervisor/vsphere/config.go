package vsphere

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/katoflow/katoflow/internal/inventory"
)

// ConfigOf returns the configuration that the hypervisor.vsphere section of an inventory file describes: the password and certificates read now, on the machine that calls it. env looks up
// an environment variable that the password names. Requests go through the process's own proxy (HTTPS_PROXY, NO_PROXY). An error names the field; no part of a secret is in it.
func ConfigOf(file *inventory.File, s *inventory.HypervisorVSphere, env func(string) (string, bool)) (Config, error) {
	if s == nil {
		return Config{}, errors.New("there is no vsphere section in the inventory: write the url of the vCenter or ESXi host and an account")
	}
	cfg := Config{URL: s.URL, User: s.User, Quiesce: s.Quiesce, FreeShare: float64(s.FreePercent) / 100, Proxy: http.ProxyFromEnvironment}
	password, err := s.Password.Resolve(file, env)
	if err != nil {
		return Config{}, fmt.Errorf("hypervisor.vsphere.password: %w", err)
	}
	cfg.Password = string(password)
	if s.CAFile != "" {
		if cfg.CA, err = file.Certificates(s.CAFile); err != nil {
			return Config{}, fmt.Errorf("hypervisor.vsphere.ca_file: %w", err)
		}
	}
	return cfg, nil
}
