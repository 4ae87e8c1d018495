package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
)

func TestList_OfDamagedArchives_NamesTheReasonAndListsNone(t *testing.T) {
	for name, row := range map[string]struct {
		damage func(t *testing.T, b *bucket, s *Store, ref Ref)
		reason string
	}{
		"object gone": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			require.NoError(t, s.remove(t.Context(), s.key(ref, exportName)))
		}, "the object is missing"},
		"object of another size": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			require.NoError(t, s.put(t.Context(), s.key(ref, exportName), []byte("short"), false))
		}, "5 bytes"},
		"object with other bytes": {func(t *testing.T, b *bucket, s *Store, ref Ref) {
			_, err := b.Client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: aws.String(s.key(ref, exportName)), Body: bytes.NewReader(make([]byte, 6*mib))})
			require.NoError(t, err)
		}, "another one"},
		"object of other parts": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			manifest := s.key(ref, manifestName)
			data, err := s.get(t.Context(), manifest, maxManifest)
			require.NoError(t, err)
			require.NoError(t, s.remove(t.Context(), manifest))
			require.NoError(t, s.remove(t.Context(), s.key(ref, exportName)))
			_, err = s.Upload(t.Context(), Upload{Ref: ref, Source: newMemory(1, 6*mib), PartSize: 6 * mib})
			require.NoError(t, err)
			require.NoError(t, s.put(t.Context(), manifest, data, false))
		}, "another one"},
		"manifest cut off": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			data, err := s.get(t.Context(), s.key(ref, manifestName), maxManifest)
			require.NoError(t, err)
			require.NoError(t, s.put(t.Context(), s.key(ref, manifestName), data[:len(data)/2], false))
		}, "not the JSON of a manifest"},
		"manifest of another archive": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			data, err := s.get(t.Context(), s.key(ref, manifestName), maxManifest)
			require.NoError(t, err)
			data = bytes.Replace(data, []byte(`"cluster": "prod"`), []byte(`"cluster": "test"`), 1)
			require.NoError(t, s.put(t.Context(), s.key(ref, manifestName), data, false))
		}, "manifest is of archive test/"},
		"manifest of a later version": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			require.NoError(t, s.put(t.Context(), s.key(ref, manifestName), []byte(`{"version": 2}`), false))
		}, "later katoflow"},
		"upload under way": {func(t *testing.T, _ *bucket, s *Store, ref Ref) {
			require.NoError(t, s.Delete(t.Context(), ref, false))
			_, err := s.Begin(t.Context(), Upload{Ref: ref, Source: newMemory(1, mib)})
			require.NoError(t, err)
		}, "the transfer has not ended"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, false)
			s := b.open(t)
			ref, sound := Ref{"prod", "damaged"}, Ref{"prod", "sound"}
			keep(t, s, Upload{Ref: ref, Source: newMemory(1, 6*mib), PartSize: 5 * mib})
			keep(t, s, Upload{Ref: sound, Source: newMemory(2, mib)})
			row.damage(t, b, s, ref)
			archives, incomplete, err := s.List(t.Context(), "prod")
			require.NoError(t, err)
			require.Len(t, archives, 1)
			require.Equal(t, sound, archives[0].Ref)
			require.Len(t, incomplete, 1)
			require.Equal(t, ref, incomplete[0].Ref)
			require.Contains(t, incomplete[0].Reason, row.reason)
			_, err = s.Verify(t.Context(), ref, nil, "", nil)
			require.True(t, IsKind(err, KindIncomplete), "%v", err)
			require.True(t, IsKind(s.Delete(t.Context(), ref, false), KindIncomplete))
			require.NoError(t, s.Delete(t.Context(), ref, true))
			_, incomplete, err = s.List(t.Context(), "prod")
			require.NoError(t, err)
			require.Empty(t, incomplete)
			left, err := s.Leftovers(t.Context())
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestList_AmongForeignObjects_LeavesThemAlone(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	for _, key := range []string{"some/where/readme.txt", "some/where/a/b/c/export.tgz", "some/where/UPPER/x/export.tgz", "some/where/a-/x/export.tgz", "other/prod/1/export.tgz"} {
		require.NoError(t, s.put(t.Context(), key, []byte("x"), false))
	}
	_, err := b.Client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &b.Name, Key: aws.String("some/where/film.mkv")})
	require.NoError(t, err)
	archives, incomplete, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, archives)
	require.Empty(t, incomplete)
	aborted, err := s.AbortLeftovers(t.Context(), 0, func(Ref) bool { return false })
	require.NoError(t, err)
	require.Empty(t, aborted)
}

func TestDelete_Interrupted_NeverLeavesAListedArchive(t *testing.T) {
	ref := Ref{"prod", "1"}
	for _, operation := range []string{"DELETE manifest.json", "DELETE export.tgz", "DELETE verified.json", "DELETE rehearsed.json"} {
		t.Run(operation, func(t *testing.T) {
			b := newBucket(t, false)
			s := b.open(t)
			keep(t, s, Upload{Ref: ref, Source: newMemory(1, mib)})
			b.Proxy.Fail(operation, 1000, archivetest.AccessDenied)
			err := s.Delete(t.Context(), ref, false)
			require.True(t, IsKind(err, KindAccessDenied), "%v", err)
			archives, _, err := s.List(t.Context(), "")
			require.NoError(t, err)
			if operation == "DELETE manifest.json" {
				require.Len(t, archives, 1, "nothing was removed")
			} else {
				require.Empty(t, archives)
			}
			b.Proxy.Forget()
			require.NoError(t, s.Delete(t.Context(), ref, true))
			_, incomplete, err := s.List(t.Context(), "")
			require.NoError(t, err)
			require.Empty(t, incomplete)
		})
	}
}

func TestDelete_UnderObjectLock_IsRefusedWithItsDate(t *testing.T) {
	b := newBucket(t, true)
	s := b.open(t, func(c *Config) { c.LockMode, c.LockFor = "GOVERNANCE", 48*time.Hour })
	require.NoError(t, s.Check(t.Context()))
	source := newMemory(1, 6*mib)
	ref := Ref{"prod", "locked"}
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	for _, force := range []bool{false, true} {
		err := s.Delete(t.Context(), ref, force)
		require.True(t, IsKind(err, KindLocked), "%v", err)
		require.Contains(t, err.Error(), time.Now().UTC().Add(48*time.Hour).Format("2006-01-02"))
	}
	_, err := s.Verify(t.Context(), ref, nil, "", nil)
	require.NoError(t, err, "what is remembered beside it is not locked")
	_, err = s.Verify(t.Context(), ref, nil, "", nil)
	require.NoError(t, err)
	requireExport(t, s, ref, OpenOptions{}, source.data)

	// By a worker's clock that is wrong the lock has passed: the service still says no, to the manifest first.
	s.now = func() time.Time { return time.Now().Add(50 * time.Hour) }
	err = s.Delete(t.Context(), ref, false)
	require.True(t, IsKind(err, KindLocked), "%v", err)
	require.Contains(t, err.Error(), "manifest.json")
	archives, _, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, archives, 1)

	held := Ref{"prod", "held"}
	s = b.open(t)
	keep(t, s, Upload{Ref: held, Source: source, PartSize: 5 * mib})
	_, err = b.Client.PutObjectLegalHold(t.Context(), &s3.PutObjectLegalHoldInput{
		Bucket: &b.Name, Key: aws.String(s.key(held, exportName)), LegalHold: &types.ObjectLockLegalHold{Status: types.ObjectLockLegalHoldStatusOn},
	})
	require.NoError(t, err)
	require.True(t, IsKind(s.Delete(t.Context(), held, true), KindLocked))

	// Of the same time as the others and after them in order: what the policy does not keep.
	late := Ref{"prod", "zlocked"}
	keep(t, b.open(t, func(c *Config) { c.LockMode, c.LockFor = "COMPLIANCE", time.Hour }), Upload{Ref: late, Source: source, PartSize: 5 * mib})
	plan, err := s.Prune(t.Context(), "", Policy{Last: 1}, false)
	require.NoError(t, err)
	require.Len(t, plan.Failed, 1)
	require.Equal(t, late, plan.Failed[0].Ref)
	require.Equal(t, KindLocked, plan.Failed[0].Kind)

	unlocked := newBucket(t, false).open(t, func(c *Config) { c.LockMode, c.LockFor = "GOVERNANCE", time.Hour })
	require.True(t, IsKind(unlocked.Check(t.Context()), KindUnsupported))
	_, err = unlocked.Upload(t.Context(), Upload{Ref: ref, Source: source})
	require.True(t, IsKind(err, KindUnsupported), "%v", err)
}

func TestUpload_WithServerSideEncryption_NeedsTheServicesAnswer(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t, func(c *Config) { c.Encryption = "AES256" })
	ref := Ref{"prod", "1"}
	source := newMemory(1, mib)
	// versitygw takes the header, stores in the clear and does not say so.
	err := s.Check(t.Context())
	require.True(t, IsKind(err, KindUnsupported), "%v", err)
	_, err = s.Upload(t.Context(), Upload{Ref: ref, Source: source})
	require.True(t, IsKind(err, KindUnsupported), "%v", err)
	_, incomplete, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, incomplete)
	left, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left)

	asked := map[string]string{}
	b.Proxy.Fail("", 1000, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if value := r.Header.Get("X-Amz-Server-Side-Encryption"); value != "" {
			asked[archivetest.OperationOf(r)] = value + " " + r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") + " " + r.Header.Get("X-Amz-Storage-Class")
			w.Header().Set("X-Amz-Server-Side-Encryption", value)
		}
		forward.ServeHTTP(w, r)
	})
	s = b.open(t, func(c *Config) { c.Encryption, c.KMSKey, c.StorageClass = "aws:kms", "key-1", "STANDARD_IA" })
	keep(t, s, Upload{Ref: ref, Source: source})
	require.Equal(t, "aws:kms key-1 STANDARD_IA", asked["CreateMultipartUpload"])
	require.Equal(t, "aws:kms key-1 ", asked["PUT manifest.json"])
}

func TestAbortLeftovers_OfDeadOperations_LeavesTheLivingAndTheYoung(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	living, dead := Ref{"prod", "living"}, Ref{"prod.2", "dead/1"}
	for _, ref := range []Ref{living, dead} {
		transfer, err := s.Begin(t.Context(), Upload{Ref: ref, Source: newMemory(1, 6*mib), PartSize: 5 * mib})
		require.NoError(t, err)
		require.NoError(t, transfer.Send(t.Context()))
	}
	found, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 2)
	isLiving := func(ref Ref) bool { return ref == living }
	aborted, err := s.AbortLeftovers(t.Context(), time.Hour, isLiving)
	require.NoError(t, err)
	require.Empty(t, aborted, "too young")
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	aborted, err = s.AbortLeftovers(t.Context(), time.Hour, isLiving)
	require.NoError(t, err)
	require.Len(t, aborted, 1)
	require.Equal(t, dead, aborted[0].Ref)
	found, err = s.Leftovers(t.Context())
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, living, found[0].Ref)
	_, incomplete, err := s.List(t.Context(), dead.Cluster)
	require.NoError(t, err)
	require.Empty(t, incomplete, "its state is gone too")
	// The living one goes on.
	b.Proxy.Forget()
	keep(t, s, Upload{Ref: living, Source: newMemory(1, 6*mib)})
	require.Zero(t, b.Proxy.Count("UploadPart"))
}

func TestStore_WithMoreThanOnePage_SeesAllOfThem(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	s.page = aws.Int32(2)
	const uploads = 5
	for i := range uploads {
		// Two of the same key too: another process's begin whose state was overwritten.
		for range 1 + i%2 {
			_, err := b.Client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &b.Name, Key: aws.String(s.key(Ref{"prod", fmt.Sprint(i)}, exportName))})
			require.NoError(t, err)
		}
	}
	left, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(left), uploads, "each key at least")
	aborted := 0
	for try := 0; try < 3; try++ {
		some, err := s.AbortLeftovers(t.Context(), 0, func(Ref) bool { return false })
		require.NoError(t, err)
		aborted += len(some)
	}
	require.Equal(t, uploads+uploads/2, aborted)

	source := newMemory(1, 26*mib)
	up := Upload{Ref: Ref{"prod", "parts"}, Source: source, PartSize: 5 * mib, Parallel: 1}
	killAfter(t, s, up, 5)
	keep(t, s, up)
	require.Zero(t, b.Proxy.SentAgain())
	for i := range uploads {
		keep(t, s, Upload{Ref: Ref{"prod", fmt.Sprint(i)}, Source: newMemory(1, 10)})
	}
	archives, incomplete, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, archives, uploads+1)
	require.Empty(t, incomplete)
}

func TestPrune_OfAStore_DeletesWhatThePlanSays(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	for day := 1; day <= 4; day++ {
		stored, err := s.Upload(t.Context(), Upload{Ref: Ref{"prod", fmt.Sprint(day)}, Source: newMemory(uint64(day), mib)})
		require.NoError(t, err)
		m := manifestOf(Ref{"prod", fmt.Sprint(day)}, stored)
		m.Started = time.Date(2026, 11, day, 3, 0, 0, 0, time.UTC)
		m.Ended = m.Started.Add(time.Minute)
		_, err = s.Finish(t.Context(), m)
		require.NoError(t, err)
	}
	_, err := s.Verify(t.Context(), Ref{"prod", "1"}, nil, "", nil)
	require.NoError(t, err)
	dry, err := s.Prune(t.Context(), "prod", Policy{Last: 2}, true)
	require.NoError(t, err)
	archives, _, err := s.List(t.Context(), "prod")
	require.NoError(t, err)
	require.Len(t, archives, 4, "a dry run deletes nothing")
	require.Equal(t, []string{"4", "3", "2", "1"}, operations(archives))
	plan, err := s.Prune(t.Context(), "prod", Policy{Last: 2}, false)
	require.NoError(t, err)
	require.Equal(t, dry, plan)
	archives, _, err = s.List(t.Context(), "prod")
	require.NoError(t, err)
	require.Equal(t, []string{"4", "3", "1"}, operations(archives), "the verified one stays")

	b.Proxy.Fail("DELETE manifest.json", 1000, archivetest.AccessDenied)
	plan, err = s.Prune(t.Context(), "prod", Policy{Last: 1}, false)
	require.NoError(t, err)
	require.Equal(t, []PruneFailure{{Ref{"prod", "3"}, KindAccessDenied, plan.Failed[0].Error}}, plan.Failed)
}

func operations(entries []Entry) []string {
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Operation)
	}
	return names
}

func TestPlanPrune_OfATable_KeepsWhatThePolicySays(t *testing.T) {
	// The operation is the time in UTC; "*" marks one verified well, "!" one verified badly, "+" one proven restorable, "x" one proven and
	// damaged since, "~" one rehearsed badly, "p" a partial export, "q" a partial one proven, "i" one not complete.
	entry := func(text string) Entry {
		at, err := time.Parse("2006-01-02T15", strings.TrimRight(text, "*!+x~pqi"))
		require.NoError(t, err)
		m := Manifest{Ref: Ref{"prod", text}, Mode: "cluster", Started: at}
		e := Entry{Ref: m.Ref, Complete: !strings.HasSuffix(text, "i"), Manifest: &m}
		switch text[len(text)-1] {
		case '*':
			e.Verified = &Verification{OK: true}
		case '!':
			e.Verified = &Verification{}
		case 'x':
			e.Verified, e.Rehearsed = &Verification{}, &Rehearsal{OK: true}
		case '+':
			e.Rehearsed = &Rehearsal{OK: true}
		case '~':
			e.Rehearsed = &Rehearsal{}
		case 'p', 'q':
			m.Include = []string{"mysql"}
			if strings.HasSuffix(text, "q") {
				e.Rehearsed = &Rehearsal{OK: true}
			}
		}
		return e
	}
	kiritimati := time.FixedZone("+14", 14*3600)
	for name, row := range map[string]struct {
		archives string
		policy   Policy
		keep     string
	}{
		"last":                         {"2026-11-01T03 2026-11-02T03 2026-11-03T03", Policy{Last: 2}, "2026-11-03T03:last 2026-11-02T03:last"},
		"more wanted than there are":   {"2026-11-01T03", Policy{Last: 9, Daily: 9}, "2026-11-01T03:last,daily 2026-11-01"},
		"daily keeps the newest":       {"2026-11-01T03 2026-11-01T23 2026-11-02T03", Policy{Daily: 2}, "2026-11-02T03:daily 2026-11-02 2026-11-01T23:daily 2026-11-01"},
		"daily skips days without":     {"2026-10-01T03 2026-11-01T03 2026-11-02T03", Policy{Daily: 3}, "2026-11-02T03:daily 2026-11-02 2026-11-01T03:daily 2026-11-01 2026-10-01T03:daily 2026-10-01"},
		"days of a zone":               {"2026-11-01T09 2026-11-01T11", Policy{Daily: 2, Zone: kiritimati}, "2026-11-01T11:daily 2026-11-02 2026-11-01T09:daily 2026-11-01"},
		"weekly by ISO":                {"2026-12-27T03 2026-12-28T03 2027-01-03T03 2027-01-04T03", Policy{Weekly: 2}, "2027-01-04T03:weekly 2027-W01 2027-01-03T03:weekly 2026-W53"},
		"monthly":                      {"2026-09-30T03 2026-10-01T03 2026-10-31T03 2026-11-01T03", Policy{Monthly: 2}, "2026-11-01T03:monthly 2026-11 2026-10-31T03:monthly 2026-10"},
		"together":                     {"2026-10-31T03 2026-11-01T03 2026-11-02T03", Policy{Last: 1, Monthly: 2}, "2026-11-02T03:last,monthly 2026-11 2026-10-31T03:monthly 2026-10"},
		"the last verified stays":      {"2026-01-01T03* 2026-02-01T03* 2026-03-01T03 2026-04-01T03!", Policy{Last: 1}, "2026-04-01T03!:damaged 2026-03-01T03:last 2026-02-01T03*:last verified"},
		"the last proven stays":        {"2026-01-01T03+ 2026-02-01T03+ 2026-03-01T03~ 2026-04-01T03", Policy{Last: 1}, "2026-04-01T03:last 2026-02-01T03+:last proven restorable"},
		"a newer proven takes over":    {"2026-01-01T03+ 2026-02-01T03 2026-03-01T03+", Policy{Last: 1}, "2026-03-01T03+:last,last proven restorable"},
		"proven and damaged since":     {"2026-01-01T03+ 2026-02-01T03x 2026-03-01T03", Policy{Last: 1}, "2026-03-01T03:last 2026-02-01T03x:damaged 2026-01-01T03+:last proven restorable"},
		"proven and verified apart":    {"2026-01-01T03+ 2026-02-01T03* 2026-03-01T03", Policy{Last: 1}, "2026-03-01T03:last 2026-02-01T03*:last verified 2026-01-01T03+:last proven restorable"},
		"a partial one proven":         {"2026-01-01T03+ 2026-02-01T03q 2026-03-01T03 2026-04-01T03p", Policy{Last: 1}, "2026-04-01T03p:last 2026-03-01T03:last 2026-02-01T03q:last proven restorable 2026-01-01T03+:last proven restorable"},
		"partial ones count apart":     {"2026-11-01T03 2026-11-02T03p 2026-11-03T03p", Policy{Last: 1}, "2026-11-03T03p:last 2026-11-01T03:last"},
		"incomplete ones do not count": {"2026-11-01T03 2026-11-02T03i", Policy{Last: 1}, "2026-11-01T03:last"},
		"none":                         {"", Policy{Last: 1}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []Entry
			complete := 0
			for _, text := range strings.Fields(row.archives) {
				entries = append(entries, entry(text))
				if !strings.HasSuffix(text, "i") {
					complete++
				}
			}
			plan, err := PlanPrune(entries, row.policy)
			require.NoError(t, err)
			var kept []string
			for _, k := range plan.Keep {
				kept = append(kept, k.Operation+":"+strings.Join(k.Reasons, ","))
			}
			require.Equal(t, row.keep, strings.Join(kept, " "))
			require.Len(t, plan.Delete, complete-len(plan.Keep))
		})
	}
	for _, policy := range []Policy{{}, {Last: -1, Daily: 3}} {
		_, err := PlanPrune(nil, policy)
		require.True(t, IsKind(err, KindBadInput), "%v", err)
	}
	other := entry("2026-11-01T03")
	other.Manifest.Cluster = "test"
	plan, err := PlanPrune([]Entry{other, entry("2026-11-02T03")}, Policy{Last: 1})
	require.NoError(t, err)
	require.Empty(t, plan.Delete, "each cluster has its own")
}

func FuzzParseManifest(f *testing.F) {
	sum := Sum{1}
	part := Part{Number: 1, Size: 5, SHA256: sum.String(), StoredSize: 5, StoredSHA256: sum.String()}
	m := manifestOf(Ref{"prod", "1"}, Stored{File: exportName, Size: 5, SHA256: sum.String(), StoredSize: 5, PartSize: 5, Parts: []Part{part}, Checksum: composite([]Part{part})})
	m.Version = 1
	m.Content = &Content{Orgs: 1, List: []Org{{Name: "o", Spaces: []Space{{Name: "s", Apps: []App{{Name: "a", State: "STARTED", Instances: 2}}}}}}}
	data, err := m.JSON()
	require.NoError(f, err)
	if _, err := ParseManifest(data); err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"parts":[{"number":1,"offset":9223372036854775807}]}`))
	f.Add(bytes.Replace(data, []byte(`"size": 5`), []byte(`"size": -5`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, KindCorrupt, KindOf(err))
			return
		}
		// What was taken is whole: its parts lie one after the other from the first to the last byte.
		var size, stored int64
		for _, p := range m.Parts {
			require.Equal(t, size, p.Offset)
			require.Equal(t, stored, p.StoredOffset)
			size, stored = size+p.Size, stored+p.StoredSize
		}
		require.Equal(t, m.Size, size)
		require.Equal(t, m.StoredSize, stored)
		again, err := m.JSON()
		require.NoError(t, err)
		m2, err := ParseManifest(again)
		require.NoError(t, err)
		one, _ := json.Marshal(m)
		two, _ := json.Marshal(m2)
		require.Equal(t, string(one), string(two))
	})
}
