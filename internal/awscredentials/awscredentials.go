// Package awscredentials is where the credentials of AWS's services come from: the references in an inventory, or what the process has of its own.
package awscredentials

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/webclient"
)

// Keys are references of an inventory's section to an access key, its secret key and, for a temporary one, its session token; nil for those that are not given.
type Keys struct {
	AccessKey, SecretKey, SessionToken *inventory.Secret
}

// Resolve reads them, "" for what is not given. An error names the field as the inventory does; no part of a secret is in it.
func (k Keys) Resolve(file *inventory.File, env func(string) (string, bool)) (accessKey, secretKey, sessionToken string, err error) {
	for _, ref := range []struct {
		field  string
		secret *inventory.Secret
		value  *string
	}{{"access_key", k.AccessKey, &accessKey}, {"secret_key", k.SecretKey, &secretKey}, {"session_token", k.SessionToken, &sessionToken}} {
		if ref.secret == nil {
			continue
		}
		value, err := ref.secret.Resolve(file, env)
		if err != nil {
			return "", "", "", fmt.Errorf("%s: %w", ref.field, err)
		}
		*ref.value = string(value)
	}
	return accessKey, secretKey, sessionToken, nil
}

// None tells whether none is given, so that the process's own credentials are used.
func (k Keys) None() bool { return k.AccessKey == nil && k.SecretKey == nil && k.SessionToken == nil }

// own finds the process's own credentials when they are asked for the first time, and again after it found none: finding them may take seconds and need the network, which
// reading a configuration must not.
type own struct {
	region string
	none   func(err error, text string) error

	mu    sync.Mutex
	chain aws.CredentialsProvider
}

// ownTimeout bounds a look into all places: the metadata service of an instance may be one that never answers.
const ownTimeout = 30 * time.Second

// Own returns the process's own AWS credentials, as every AWS SDK finds them (environment, shared files, container, instance role). They are looked for when they are asked for, and
// renewed when they expire. none makes the error of there being none of its cause, whose text is one line that can be shown.
func Own(region string, none func(err error, text string) error) aws.CredentialsProvider {
	return &own{region: region, none: none}
}

// Retrieve is aws.CredentialsProvider's.
func (o *own) Retrieve(ctx context.Context) (aws.Credentials, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	if o.chain == nil {
		found, err := config.LoadDefaultConfig(limited, config.WithRegion(o.region))
		if err != nil {
			return aws.Credentials{}, o.failed(ctx, err)
		}
		o.chain = found.Credentials
	}
	credentials, err := o.chain.Retrieve(limited)
	if err != nil {
		return aws.Credentials{}, o.failed(ctx, err)
	}
	return credentials, nil
}

func (o *own) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := webclient.Clean(err.Error())
	return o.none(webclient.Hide(err, text), text)
}
