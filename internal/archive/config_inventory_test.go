package archive

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/inventory"
)

// inventoryOf loads an inventory with the s3 section from a folder with the files, and hides this machine's own AWS settings.
func inventoryOf(t *testing.T, section string, files map[string]string) (*inventory.File, *inventory.S3) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "aws-config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "aws-credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true") // nothing but loopback is asked
	path := filepath.Join(dir, "inventory.yaml")
	require.NoError(t, os.WriteFile(path, []byte("clusters: {a: {nodes: [{name: n, address: 192.0.2.1}], s3: {"+section+"}}}\n"), 0o600))
	f, err := inventory.Load(path)
	require.NoError(t, err)
	return f, f.Clusters["a"].S3
}

func noEnvironment(string) (string, bool) { return "", false }

func TestConfigOf_EveryField_IsTakenOver(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	f, s := inventoryOf(t, `endpoint: "https://s3.example.org", region: eu-1, bucket: archives, prefix: prod, path_style: true, ca_file: ca.pem,
    access_key: {env: ACCESS}, secret_key: {file: key}, session_token: {env: TOKEN},
    encryption: "aws:kms", kms_key: alias/mine, storage_class: STANDARD_IA, lock_mode: GOVERNANCE, lock_for: 90d`,
		map[string]string{"key": "hunter2\n", "ca.pem": ca})
	c, err := ConfigOf(f, s, func(name string) (string, bool) { return "value of " + name, true })
	require.NoError(t, err)
	require.NotNil(t, c.Proxy)
	c.Proxy = nil
	assert.Equal(t, Config{
		Endpoint: "https://s3.example.org", Region: "eu-1", Bucket: "archives", Prefix: "prod", AccessKey: "value of ACCESS", SecretKey: "hunter2", SessionToken: "value of TOKEN",
		PathStyle: true, CA: []byte(ca), Encryption: "aws:kms", KMSKey: "alias/mine", StorageClass: "STANDARD_IA", LockMode: "GOVERNANCE", LockFor: 90 * 24 * time.Hour,
	}, c)
	store, err := Open(c, nil)
	require.NoError(t, err)
	store.Close()
}

func TestConfigOf_WhatCannotBeRead_NamesTheField(t *testing.T) {
	files := map[string]string{"key": "hunter2", "ca.pem": "hunter2 is no certificate"}
	for name, row := range map[string]struct{ section, want string }{
		"access key":    {"bucket: archives, access_key: {env: NONE}, secret_key: {file: key}", `s3.access_key: the environment variable "NONE" is not set: set it for the worker`},
		"secret key":    {"bucket: archives, access_key: {file: key}, secret_key: {env: NONE}", `s3.secret_key: the environment variable "NONE" is not set: set it for the worker`},
		"session token": {"bucket: archives, access_key: {file: key}, secret_key: {file: key}, session_token: {env: NONE}", `s3.session_token: the environment variable "NONE" is not set: set it for the worker`},
		"CA":            {"bucket: archives, access_key: {file: key}, secret_key: {file: key}, ca_file: ca.pem", `s3.ca_file: "ca.pem" holds no certificate: name a PEM file`},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := inventoryOf(t, row.section, files)
			_, err := ConfigOf(f, s, noEnvironment)
			require.Error(t, err)
			assert.True(t, IsKind(err, KindBadInput))
			assert.Equal(t, row.want, strings.ReplaceAll(err.Error(), filepath.Dir(f.Path())+"/", ""))
		})
	}
	_, err := ConfigOf(nil, nil, noEnvironment)
	assert.True(t, IsKind(err, KindBadInput))
	assert.ErrorContains(t, err, "there is no s3 section")
}

func TestConfigOf_NoKeys_TheWorkersOwnAreUsedWhenTheyAreNeeded(t *testing.T) {
	f, s := inventoryOf(t, "bucket: archives", nil)
	c, err := ConfigOf(f, s, noEnvironment)
	require.NoError(t, err)
	require.NotNil(t, c.Credentials)

	// Found only now: reading the configuration has not looked.
	require.NoError(t, os.WriteFile(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), []byte("[default]\naws_access_key_id = from-file\naws_secret_access_key = hunter2\n"), 0o600))
	found, err := c.Credentials.Retrieve(context.Background())
	require.NoError(t, err)
	assert.Equal(t, "from-file", found.AccessKeyID)

	t.Setenv("AWS_ACCESS_KEY_ID", "from-environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	t.Setenv("AWS_SESSION_TOKEN", "token")
	c, err = ConfigOf(f, s, noEnvironment)
	require.NoError(t, err)
	found, err = c.Credentials.Retrieve(context.Background())
	require.NoError(t, err)
	assert.Equal(t, []string{"from-environment", "token"}, []string{found.AccessKeyID, found.SessionToken})
}

func TestConfigOf_NoKeysAnywhere_CheckSaysSoAndAsksNothing(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	f, s := inventoryOf(t, "path_style: true, bucket: archives, endpoint: '"+server.URL+"'", nil)
	c, err := ConfigOf(f, s, noEnvironment)
	require.NoError(t, err)
	store, err := Open(c, nil)
	require.NoError(t, err)
	defer store.Close()
	err = store.Check(t.Context())
	require.Error(t, err)
	assert.Equal(t, KindCredentials, KindOf(err), "%v", err)
	assert.ErrorContains(t, err, "no AWS credentials of the worker's own")
	assert.ErrorContains(t, err, "write s3.access_key and s3.secret_key")
	assert.NotContains(t, err.Error(), "\n")
	assert.Zero(t, asked.Load())
}
