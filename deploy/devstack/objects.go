package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

// s3Region is the region clients sign for.
const s3Region = "us-east-1"

// s3Keys are the credentials of the S3 server's only account.
type s3Keys struct {
	AccessKey string `json:"accessKey"`
	SecretKey string `json:"secretKey"`
}

// chooseS3Keys takes the given keys, else those stored in the data folder, else makes random ones, and stores made ones
// (mode 0600) when there is a data folder. Given keys are never written to the folder.
func chooseS3Keys(o options) (s3Keys, error) {
	if o.s3AccessKey != "" {
		return s3Keys{o.s3AccessKey, o.s3SecretKey}, nil
	}
	file := filepath.Join(o.dataDir, "s3-keys.json")
	if o.dataDir != "" {
		content, err := os.ReadFile(file)
		if err == nil {
			var keys s3Keys
			if err := json.Unmarshal(content, &keys); err != nil || keys.AccessKey == "" || keys.SecretKey == "" {
				return keys, usagef("%s holds no S3 keys; delete it", file)
			}
			return keys, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return s3Keys{}, fmt.Errorf("read the S3 keys: %w", err)
		}
	}
	var random [40]byte
	if _, err := rand.Read(random[:]); err != nil {
		return s3Keys{}, fmt.Errorf("make S3 keys: %w", err)
	}
	keys := s3Keys{"devstack" + hex.EncodeToString(random[:6]), hex.EncodeToString(random[6:])}
	if o.dataDir != "" {
		if err := writeJSON(file, keys); err != nil {
			return keys, fmt.Errorf("store the S3 keys: %w", err)
		}
	}
	return keys, nil
}

// objectServer is the running S3 server.
type objectServer struct {
	cancel context.CancelFunc
	done   chan error // receives once when the server has ended
}

// startObjectServer serves the folder root/objects on ip:port. Attributes of objects are kept as extended attributes,
// or in root/attributes where the file system has none; a folder stays with what it was begun with.
//
// It changes the working directory of the process to root/objects: that is how versitygw's posix backend works.
func startObjectServer(root, address string, keys s3Keys) (*objectServer, error) {
	objects, attributes := filepath.Join(root, "objects"), filepath.Join(root, "attributes")
	if err := os.MkdirAll(objects, 0o700); err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	var storer meta.MetadataStorer = meta.XattrMeta{}
	opts := posix.PosixOpts{}
	_, err := os.Stat(attributes)
	if err == nil || (meta.XattrMeta{}).Test(objects) != nil {
		if err := os.MkdirAll(attributes, 0o700); err != nil {
			return nil, fmt.Errorf("s3 server: %w", err)
		}
		sidecar, err := meta.NewSideCar(attributes)
		if err != nil {
			return nil, fmt.Errorf("s3 server: %w", err)
		}
		storer, opts.SideCarDir = sidecar, attributes
	}
	backend, err := posix.New(objects, storer, opts)
	if err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &objectServer{cancel: cancel, done: make(chan error, 1)}
	go func() {
		server.done <- embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
			RootUserAccess:    keys.AccessKey,
			RootUserSecret:    keys.SecretKey,
			Region:            s3Region,
			Ports:             []string{address},
			MaxConnections:    4096,
			MaxRequests:       4096,
			MultipartMaxParts: 10000,
			Quiet:             true,
			// What it would choose itself, without a line on stdout about it.
			IAMService: auth.NewIAMServiceSingle(auth.Account{Access: keys.AccessKey, Secret: keys.SecretKey, Role: auth.RoleAdmin}),
		})
	}()
	return server, nil
}

// createBuckets makes the buckets exist; one that exists already is left as it is.
func createBuckets(ctx context.Context, endpoint string, keys s3Keys, buckets []string) error {
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String(endpoint),
		Region:       s3Region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(keys.AccessKey, keys.SecretKey, ""),
	})
	if _, err := client.ListBuckets(ctx, &s3.ListBucketsInput{}); err != nil {
		return fmt.Errorf("s3 server: list buckets: %w", err)
	}
	for _, bucket := range buckets {
		_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)})
		var owned *s3types.BucketAlreadyOwnedByYou
		if err != nil && !errors.As(err, &owned) {
			return fmt.Errorf("s3 server: create bucket %q: %w", bucket, err)
		}
	}
	return nil
}
