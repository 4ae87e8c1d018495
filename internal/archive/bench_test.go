package archive

import (
	"fmt"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// BenchmarkUpload measures the worker's own share of a transfer, from memory to versitygw on the same machine: go test -run '^$' -bench Upload ./internal/archive
func BenchmarkUpload(b *testing.B) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(b, err)
	source := newMemory(1, 128*mib)
	for name, recipients := range map[string][]string{"plain": nil, "encrypted": {identity.Recipient().String()}} {
		b.Run(name, func(b *testing.B) {
			bucket := newBucket(b, false)
			s := bucket.open(b, func(c *Config) { c.Endpoint = s3Server(b).URL })
			b.SetBytes(int64(len(source.data)))
			b.ReportAllocs()
			for i := range b.N {
				_, err := s.Upload(b.Context(), Upload{Ref: Ref{"prod", fmt.Sprint(b.N, "-", i)}, Source: source, SHA256: source.sha256(), Recipients: recipients})
				require.NoError(b, err)
			}
		})
	}
}
