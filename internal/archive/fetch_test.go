package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
)

// inParts keeps an archive of four parts.
func inParts(t *testing.T) (*bucket, *Store, Manifest, []byte) {
	t.Helper()
	b := newBucket(t, false)
	s := b.open(t)
	source := newMemory(21, 16*mib)
	ref := Ref{"prod", "parts"}
	stored, err := s.Upload(t.Context(), Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	require.NoError(t, err)
	m, err := s.Finish(t.Context(), manifestOf(ref, stored))
	require.NoError(t, err)
	b.Proxy.Forget()
	return b, s, m, source.data
}

func TestPresignedPart_ReadByAnybody_IsThePartAndNothingElse(t *testing.T) {
	_, s, m, data := inParts(t)
	get := func(p PresignedGet, change func(*http.Request)) (int, []byte) {
		request, err := http.NewRequest(http.MethodGet, p.URL.Reveal(), nil)
		require.NoError(t, err)
		request.Header = p.Headers.Clone()
		if change != nil {
			change(request)
		}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, body
	}
	var last PresignedGet
	for number := 1; number <= 4; number++ {
		p, err := s.PresignPart(t.Context(), m, number, 15*time.Minute)
		require.NoError(t, err)
		status, body := get(p, nil)
		require.Equal(t, http.StatusPartialContent, status)
		require.True(t, bytes.Equal(data[p.Offset:p.Offset+p.Size], body))
		shown, err := json.Marshal(p)
		require.NoError(t, err)
		for _, text := range []string{fmt.Sprint(p), fmt.Sprintf("%#v", p), fmt.Sprintf("%+v", p), string(shown), p.URL.String()} {
			require.NotContains(t, text, "Signature")
		}
		last = p
	}
	for name, change := range map[string]func(*http.Request){
		"another range":     func(r *http.Request) { r.Header.Set("Range", "bytes=0-1") },
		"another object":    func(r *http.Request) { r.URL.Path = r.URL.Path[:len(r.URL.Path)-len(exportName)] + manifestName },
		"another signature": func(r *http.Request) { r.URL.RawQuery += "0" },
		"another method":    func(r *http.Request) { r.Method = http.MethodPut },
	} {
		status, _ := get(last, change)
		require.GreaterOrEqual(t, status, 400, name)
	}
	// The object that is there is not the manifest's any more.
	other := m
	other.ETag = `"00000000000000000000000000000000-4"`
	p, err := s.PresignPart(t.Context(), other, 1, time.Minute)
	require.NoError(t, err)
	status, _ := get(p, nil)
	require.Equal(t, http.StatusPreconditionFailed, status)

	for _, number := range []int{0, 5} {
		_, err := s.PresignPart(t.Context(), m, number, time.Minute)
		require.True(t, IsKind(err, KindBadInput), "%v", err)
		_, err = s.OpenPart(t.Context(), m, number)
		require.True(t, IsKind(err, KindBadInput), "%v", err)
		require.True(t, IsKind(s.CheckPart(t.Context(), m, number), KindBadInput))
	}
	_, err = s.PresignPart(t.Context(), m, 1, 0)
	require.True(t, IsKind(err, KindBadInput), "%v", err)
}

func TestOpenPart_WhoseConnectionBreaks_GoesOnWhereItEnded(t *testing.T) {
	b, s, m, data := inParts(t)
	b.Proxy.Fail("GET "+exportName, 2, archivetest.Truncate(2*mib))
	b.Proxy.Fail("GET "+exportName, 1, archivetest.SlowDown)
	r, err := s.OpenPart(t.Context(), m, 2)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.True(t, bytes.Equal(data[5*mib:10*mib], got))
	require.Empty(t, b.Proxy.Unmet())
	require.Equal(t, 4, b.Proxy.Count("GET "+exportName))
}

func TestCheckPart_OfOtherBytes_IsCorrupt(t *testing.T) {
	b, s, m, _ := inParts(t)
	require.NoError(t, s.CheckPart(t.Context(), m, 4))
	b.Proxy.Fail("GET "+exportName, 1, archivetest.Flip(mib-1))
	err := s.CheckPart(t.Context(), m, 4)
	require.True(t, IsKind(err, KindCorrupt), "%v", err)
	require.ErrorContains(t, err, "part 4 of 4")
}

func TestStoredProgress_OfSomeParts_CountsThem(t *testing.T) {
	stored := Stored{Size: 95, PartSize: 10, SHA256: "s", Parts: make([]Part, 10)}
	p := stored.Progress(func(number int) bool { return number == 1 || number >= 9 })
	done, all := p.Parts()
	require.Equal(t, []int{3, 10}, []int{done, all})
	require.Equal(t, int64(25), p.Bytes())
	require.Zero(t, stored.Progress(func(int) bool { return false }).Bytes())
}
