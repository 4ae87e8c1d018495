package ec2

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/katoflow/katoflow/internal/awscredentials"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/webclient"
)

// ConfigOf returns the configuration that the hypervisor.ec2 section of an inventory file describes: secrets and certificates read now, on the machine that calls it. env looks up an
// environment variable that a secret names. Without access_key and secret_key the process's own AWS credentials are used, as awscredentials.Own finds them. Requests go through the
// process's own proxy (HTTPS_PROXY, NO_PROXY). An error names the field; no part of a secret is in it.
func ConfigOf(file *inventory.File, e *inventory.HypervisorEC2, env func(string) (string, bool)) (Config, error) {
	if e == nil {
		return Config{}, errors.New("there is no ec2 section in the inventory: write the region that has the instances")
	}
	cfg := Config{Region: e.Region, Endpoint: e.Endpoint, Tags: e.Tags, Proxy: http.ProxyFromEnvironment}
	keys := awscredentials.Keys{AccessKey: e.AccessKey, SecretKey: e.SecretKey, SessionToken: e.SessionToken}
	var err error
	if cfg.AccessKey, cfg.SecretKey, cfg.SessionToken, err = keys.Resolve(file, env); err != nil {
		return Config{}, fmt.Errorf("hypervisor.ec2.%w", err)
	}
	if keys.None() {
		cfg.Credentials = awscredentials.Own(e.Region, func(err error, text string) error {
			return webclient.Hide(err, "the worker has no AWS credentials of its own: "+text+": write hypervisor.ec2.access_key and secret_key, or give the worker a role")
		})
	}
	if e.CAFile != "" {
		if cfg.CA, err = file.Certificates(e.CAFile); err != nil {
			return Config{}, fmt.Errorf("hypervisor.ec2.ca_file: %w", err)
		}
	}
	return cfg, nil
}
