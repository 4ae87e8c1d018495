package archive

import (
	"context"
	"net/http"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/webclient"
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
	for _, ref := range []struct {
		field  string
		secret *inventory.Secret
		value  *string
	}{{"access_key", s.AccessKey, &c.AccessKey}, {"secret_key", s.SecretKey, &c.SecretKey}, {"session_token", s.SessionToken, &c.SessionToken}} {
		if ref.secret == nil {
			continue
		}
		value, err := ref.secret.Resolve(file, env)
		if err != nil {
			return Config{}, &Error{Kind: KindBadInput, Message: "s3." + ref.field + ": " + err.Error(), Err: err}
		}
		*ref.value = string(value)
	}
	if s.CAFile != "" {
		var err error
		if c.CA, err = file.Certificates(s.CAFile); err != nil {
			return Config{}, &Error{Kind: KindBadInput, Message: "s3.ca_file: " + err.Error(), Err: err}
		}
	}
	switch {
	case s.AccessKey == nil && s.SecretKey == nil && s.SessionToken == nil:
		c.Credentials = &ownCredentials{region: s.Region}
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

// ownCredentials finds the process's own AWS credentials when they are asked for the first time, and again after it found none: finding them may
// take seconds and need the network, which reading a configuration must not.
type ownCredentials struct {
	region string

	mu    sync.Mutex
	chain aws.CredentialsProvider
}

// ownCredentialsTimeout bounds a look into all places: the metadata service of an instance may be one that never answers.
const ownCredentialsTimeout = 30 * time.Second

// Retrieve returns the credentials, an error of KindCredentials when there are none.
func (o *ownCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, ownCredentialsTimeout)
	defer cancel()
	if o.chain == nil {
		found, err := config.LoadDefaultConfig(limited, config.WithRegion(o.region))
		if err != nil {
			return aws.Credentials{}, noCredentials(ctx, err)
		}
		o.chain = found.Credentials
	}
	credentials, err := o.chain.Retrieve(limited)
	if err != nil {
		return aws.Credentials{}, noCredentials(ctx, err)
	}
	return credentials, nil
}

func noCredentials(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := webclient.Clean(err.Error())
	return &Error{Kind: KindCredentials, Err: webclient.Hide(err, text),
		Message: "no AWS credentials of the worker's own: " + text + ": write s3.access_key and s3.secret_key, or give the worker a role"}
}
