package archive

import (
	"net/http"

	"filippo.io/age"

	"github.com/katoflow/katoflow/internal/awscredentials"
	"github.com/katoflow/katoflow/internal/inventory"
)

// ConfigOf returns the configuration that the s3 section of an inventory file describes: secrets and certificates read now, on the machine
// that calls it. env looks up an environment variable that a secret names. Without access_key and secret_key the process's own AWS
// credentials are used, as every AWS SDK finds them (environment, shared files, container, instance role); they are looked for when the
// first request is signed, and renewed when they expire. Requests go through the process's own proxy (HTTPS_PROXY, NO_PROXY).
//
// An error is of KindBadInput and names the field; no part of a secret is in it.
func ConfigOf(file *inventory.File, s *inventory.S3, env func(string) (string, bool)) (Config, error) {
	if s == nil {
		return Config{}, badInput("there is no s3 section: name the bucket that archives go to in the inventory")
	}
	c := Config{
		Endpoint: s.Endpoint, Region: s.Region, Bucket: s.Bucket, Prefix: s.Prefix, PathStyle: s.PathStyle, Proxy: http.ProxyFromEnvironment,
		Encryption: s.Encryption, KMSKey: s.KMSKey, StorageClass: s.StorageClass, LockMode: s.LockMode, LockFor: s.LockFor.Std(),
	}
	keys := awscredentials.Keys{AccessKey: s.AccessKey, SecretKey: s.SecretKey, SessionToken: s.SessionToken}
	var err error
	if c.AccessKey, c.SecretKey, c.SessionToken, err = keys.Resolve(file, env); err != nil {
		return Config{}, &Error{Kind: KindBadInput, Message: "s3." + err.Error(), Err: err}
	}
	if s.CAFile != "" {
		if c.CA, err = file.Certificates(s.CAFile); err != nil {
			return Config{}, &Error{Kind: KindBadInput, Message: "s3.ca_file: " + err.Error(), Err: err}
		}
	}
	switch {
	case keys.None():
		c.Credentials = awscredentials.Own(s.Region, func(err error, text string) error {
			return &Error{Kind: KindCredentials, Err: err, Message: "no AWS credentials of the worker's own: " + text + ": write s3.access_key and s3.secret_key, or give the worker a role"}
		})
	case s.AccessKey == nil:
		return Config{}, badInput("s3.access_key is missing: access_key and secret_key go together")
	case s.SecretKey == nil:
		return Config{}, badInput("s3.secret_key is missing: access_key and secret_key go together")
	}
	return c, nil
}

// IdentitiesOf returns what the s3 section's identity opens encrypted archives with, read now; none where it has none. An error is of KindBadInput and names the field; no part of
// the secret is in it.
func IdentitiesOf(file *inventory.File, s *inventory.S3, env func(string) (string, bool)) ([]age.Identity, error) {
	if s == nil || s.Identity == nil {
		return nil, nil
	}
	value, err := s.Identity.Resolve(file, env)
	if err != nil {
		return nil, &Error{Kind: KindBadInput, Message: "s3.identity: " + err.Error(), Err: err}
	}
	identities, err := ParseIdentities(value)
	if err != nil {
		return nil, badInput("s3.identity: %v", err)
	}
	return identities, nil
}
