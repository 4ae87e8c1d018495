// Package archivetest gives tests a bucket on a real S3 server, and a proxy in front of it that breaks things. Package archive's tests, those of the
// commands and the end-to-end tests share it; deploy/devstack is the server (harness.StartTemporal).
package archivetest

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Server is a running S3 server and its only account.
type Server struct {
	// URL is http://HOST:PORT; buckets are in the path.
	URL string
	// Region that requests are signed for.
	Region               string
	AccessKey, SecretKey string
}

// Client talks to the server itself, past every proxy.
func (s Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.URL), Region: s.Region, UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}, nil
		}),
	})
}

// Bucket is a bucket of a test's own, seen through a proxy of its own.
type Bucket struct {
	Server Server
	Name   string
	// Proxy is what the tested store is given as the endpoint.
	Proxy *Proxy
	// Client does not go through the proxy: it arranges and looks, uncounted.
	Client *s3.Client
}

// NewBucket makes the bucket, with object lock switched on where asked for, and starts its proxy. Close ends the proxy; the bucket stays until its server is
// removed.
func NewBucket(ctx context.Context, server Server, name string, lock bool) (*Bucket, error) {
	b := &Bucket{Server: server, Name: name, Client: server.Client()}
	if _, err := b.Client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: aws.Bool(lock)}); err != nil {
		return nil, fmt.Errorf("make bucket %s: %w", name, err)
	}
	var err error
	b.Proxy, err = StartProxy(server.URL)
	return b, err
}

// Close ends the proxy and with it every request that is held.
func (b *Bucket) Close() { b.Proxy.Close() }

// Keys returns the size in bytes of every object, by key.
func (b *Bucket) Keys(ctx context.Context) (map[string]int64, error) {
	sizes := map[string]int64{}
	pages := s3.NewListObjectsV2Paginator(b.Client, &s3.ListObjectsV2Input{Bucket: &b.Name})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list bucket %s: %w", b.Name, err)
		}
		for _, o := range page.Contents {
			sizes[aws.ToString(o.Key)] = aws.ToInt64(o.Size)
		}
	}
	return sizes, nil
}

// Uploads returns the keys of the multipart uploads that were begun and neither completed nor aborted, at most 1,000.
func (b *Bucket) Uploads(ctx context.Context) ([]string, error) {
	out, err := b.Client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &b.Name})
	if err != nil {
		return nil, fmt.Errorf("list the uploads of bucket %s: %w", b.Name, err)
	}
	var keys []string
	for _, u := range out.Uploads {
		keys = append(keys, aws.ToString(u.Key))
	}
	return keys, nil
}
