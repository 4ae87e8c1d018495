package openstack

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/katoflow/katoflow/internal/inventory"
)

// ConfigOf returns the configuration that the hypervisor.openstack section of an inventory file describes: secrets and certificates read now, on the machine that calls it. env looks up an
// environment variable that a secret names. Requests go through the process's own proxy (HTTPS_PROXY, NO_PROXY). An error names the field; no part of a secret is in it.
func ConfigOf(file *inventory.File, o *inventory.HypervisorOpenStack, env func(string) (string, bool)) (Config, error) {
	if o == nil {
		return Config{}, errors.New("there is no openstack section in the inventory: write the cloud's auth_url and an account")
	}
	cfg := Config{AuthURL: o.AuthURL, Region: o.Region, User: o.User, UserDomain: o.UserDomain, Project: o.Project, ProjectDomain: o.ProjectDomain, Proxy: http.ProxyFromEnvironment}
	resolve := func(field string, secret *inventory.Secret, to *string) error {
		if secret == nil {
			return nil
		}
		value, err := secret.Resolve(file, env)
		if err != nil {
			return fmt.Errorf("hypervisor.openstack.%s: %w", field, err)
		}
		*to = string(value)
		return nil
	}
	err := resolve("password", o.Password, &cfg.Password)
	if a := o.ApplicationCredential; err == nil && a != nil {
		cfg.CredentialID = a.ID
		err = resolve("application_credential.secret", a.Secret, &cfg.CredentialSecret)
	}
	if err == nil && o.CAFile != "" {
		if cfg.CA, err = file.Certificates(o.CAFile); err != nil {
			err = fmt.Errorf("hypervisor.openstack.ca_file: %w", err)
		}
	}
	if err != nil {
		return Config{}, err
	}
	return cfg, nil
}
