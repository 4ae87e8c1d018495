package katodouble

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tables are a Database that only keeps what it is told.
type tables struct {
	mu          sync.Mutex
	content     Content
	loaded      Content
	redeployed  []Redeployment
	maintenance bool
	broken      error
	// hangs: no staging ends.
	hangs bool
}

func (d *tables) Dump(context.Context) (Content, error) { return d.content, d.broken }

func (d *tables) Load(_ context.Context, c Content) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loaded = c
	return d.broken
}

func (d *tables) Redeploy(ctx context.Context, r Redeployment) error {
	d.mu.Lock()
	d.redeployed = append(d.redeployed, r)
	d.mu.Unlock()
	if d.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	switch {
	case d.maintenance:
		return errors.New("Maintenance mode is enabled.")
	case r.Fails:
		return errors.New("Staging error: staging failed")
	}
	return nil
}

func (d *tables) tried() (apps []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.redeployed {
		apps = append(apps, r.Org+"/"+r.Space+"/"+r.App)
	}
	return apps
}

func shop() Content {
	app := func(space, name, state string) AppEntry {
		return AppEntry{GUID: space + name, Org: "shop", Space: space, Name: name, State: state, PackageState: "STAGED", Instances: 2, Buildpack: "https://git.example.com/own.git"}
	}
	return Content{
		Orgs: []string{"shop"}, Spaces: []SpaceEntry{{"shop", "production"}, {"shop", "staging"}}, Users: []UserEntry{{Name: "eve", Password: "demo"}},
		Apps: []AppEntry{app("production", "front", "STARTED"), app("production", "orders", "STARTED"), app("production", "old", "STOPPED"), app("staging", "front", "STARTED"),
			app("staging", "orders", "STARTED")},
		Services: []ServiceEntry{{Org: "shop", Space: "production", Name: "db", Service: "mysql", Plan: "free"}, {Org: "shop", Space: "staging", Name: "files", Service: "filesystem", Plan: "free"},
			{Org: "shop", Space: "staging", Name: "directory"}},
	}
}

// imports is a cluster with an export of shop in x.tgz.
type imports struct {
	*exports
	db *tables
}

func importCluster(t *testing.T, size int64) *imports {
	t.Helper()
	i := &imports{exportCluster(t), &tables{content: shop()}}
	i.c.SetDatabase(i.db)
	i.exports.patch(ExportPatch{Size: &size})
	_, errs, exit := i.run(filesID, "--cluster", "--base-dir", i.dir, "x.tgz")
	require.Zero(t, exit, errs)
	return i
}

func (i *imports) begin(ctx context.Context, node string, stdout, stderr io.Writer, args ...string) int {
	return i.c.Run(ctx, Invocation{Args: append([]string{"data", "import"}, args...), Node: node, UID: 1000, Home: "/home/stackato", Path: "/home/stackato/bin:/usr/bin", Stdin: strings.NewReader(""),
		Stdout: stdout, Stderr: stderr, Dir: i.dir, Files: OSFiles{}, Sudo: func(context.Context) error { return i.sudo },
		Reach: func(_ context.Context, _, to string) error { return i.deny[to] }})
}

// load runs an import on the Core, with the temporary folder of the test.
func (i *imports) load(args ...string) (out, errs string, exit int) {
	i.t.Helper()
	var o, s bytes.Buffer
	ctx, cancel := context.WithTimeout(i.t.Context(), 20*time.Second)
	defer cancel()
	exit = i.begin(ctx, coreID, &o, &s, append([]string{"--base-dir", i.dir}, args...)...)
	return o.String(), s.String(), exit
}

func (i *imports) patch(p ImportPatch) {
	i.t.Helper()
	require.NoError(i.t, i.c.PatchNode(coreID, StatePatch{Import: &p}))
}

// loaded is the content that was imported as the archive has it: every app is loaded STOPPED.
func (i *imports) loaded() Content {
	c := i.db.loaded
	for a := range c.Apps {
		require.Equal(i.t, "STOPPED", c.Apps[a].State)
		for _, s := range i.db.content.Apps {
			if s.GUID == c.Apps[a].GUID {
				c.Apps[a].State = s.State
			}
		}
	}
	return c
}

func TestDataImport_OfAnExport_LoadsItAndRedeploysWhatWasStarted(t *testing.T) {
	i := importCluster(t, 1<<20)
	i.patch(ImportPatch{AppSeconds: new(0.5)})
	out, errs, exit := i.load("--cluster", "--fix-app-paths", "--timeout", "600", "x.tgz")
	require.Zero(t, exit, errs)
	require.Equal(t, shop(), i.loaded())
	require.Equal(t, []string{"shop/production/front", "shop/production/orders", "shop/staging/front", "shop/staging/orders"}, i.db.tried())
	require.Equal(t, Redeployment{Org: "shop", Space: "production", App: "front", Seconds: 0.5}, i.db.redeployed[0])
	file := filepath.Join(i.dir, "x.tgz")
	for _, line := range []string{"Importing Helion Application Lifecycle Service data from " + file, "Unpacking " + file + "...", "100%", "\x1b[36mImporting main-db...\x1b[0m",
		"1 organizations, 2 spaces, 1 users, 5 applications, 3 services", "[4/4] shop/staging/orders ... \x1b[32mok\x1b[0m", "Removing temporary files...", "Import finished: " + file} {
		require.Contains(t, strings.Split(out, "\n"), line)
	}
	require.NotContains(t, out, "Failed apps:")
	require.Contains(t, errs, "NOTICE:", "lines that mean nothing")
	require.Equal(t, []string{"x.tgz"}, i.left())
	require.False(t, i.c.Importing(coreID))
}

func TestDataImport_AppsThatFail_AreListedInEitherFormAndTheExitCodeStaysZero(t *testing.T) {
	i := importCluster(t, 100<<10)
	for _, tc := range []struct {
		name  string
		patch ImportPatch
		want  string
		fails int
	}{
		{"short", ImportPatch{FailApps: []string{"shop/staging/front", "shop/production/front", "shop/production/old"}},
			"\n\x1b[31mFailed apps:\x1b[0m\n  shop/production/front\n  shop/staging/front\n\nRemoving temporary files...\nImport finished: ", 2},
		{"long and plain", ImportPatch{List: new(LongList), Plain: new(true), Product: new(Stackato)},
			"\nThe following applications failed to import and must be redeployed manually:\n - front (org: shop, space: production)\n - front (org: shop, space: staging)\n\nImport finished: ", 2},
		{"a half of them", ImportPatch{FailApps: []string{}, FailShare: new(0.5), LeaveFailed: new(FailedAndStopped)}, " - front (org: shop, space: production)\n - front (org: shop, space: staging)\n", 2},
		{"all", ImportPatch{FailShare: new(1.0)}, " - orders (org: shop, space: staging)\n", 4},
		{"healed", ImportPatch{Heal: true}, "[4/4] shop/staging/orders ... \x1b[32mok\x1b[0m\nRemoving", 0},
	} {
		i.patch(tc.patch)
		i.db.redeployed = nil
		out, errs, exit := i.load("--cluster", "x.tgz")
		require.Zero(t, exit, errs)
		require.Contains(t, out, tc.want, tc.name)
		require.Equal(t, tc.fails, strings.Count(out, "FAILED: Staging error: staging failed"), tc.name)
		require.Len(t, i.db.tried(), 4, "one that fails does not stop the rest")
		if tc.patch.Plain != nil {
			require.Empty(t, errs)
			require.NotContains(t, out, "\x1b")
			require.Contains(t, out, "Importing Stackato data from ")
		}
		if tc.patch.LeaveFailed != nil {
			require.True(t, i.db.redeployed[0].Stops)
		}
	}
}

func TestDataImport_Faults_AreWhatTheySayAndEndAfterTheirTimes(t *testing.T) {
	i := importCluster(t, 100<<10)
	for _, tc := range []struct {
		fault  ImportFault
		exit   int
		text   string
		ends   bool // with the last line
		apps   int
		tried  int
		others func(Content)
	}{
		{ImportErrorText, 0, "ERROR: Could not restore the database", false, 0, 0, func(c Content) { require.Equal(t, Content{}, c) }},
		{ImportNothing, 0, "Importing main-db...", true, 0, 0, func(c Content) { require.Equal(t, Content{}, c) }},
		{ImportFails, 3, "ERROR: Could not restore the database", false, 2, 0, func(c Content) {
			require.Len(t, c.Spaces, 2)
			require.Empty(t, c.Services)
		}},
		{ImportHalts, 3, "ERROR: Could not redeploy shop/production/orders: Staging error", false, 5, 2, func(c Content) { require.Equal(t, shop(), c) }},
		{ImportServicesLost, 0, "Failed apps:", true, 5, 4, func(c Content) { require.Empty(t, c.Services) }},
		{ImportBuildpacksLost, 0, "Failed apps:", true, 5, 4, func(c Content) { require.Empty(t, c.Apps[0].Buildpack) }},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			i.patch(ImportPatch{Fault: &tc.fault, Times: new(2), Exit: new(3), FailApps: []string{"shop/production/orders"}})
			for range 2 {
				i.db.loaded, i.db.redeployed = Content{}, nil
				out, errs, exit := i.load("--cluster", "x.tgz")
				require.Equal(t, tc.exit, exit)
				require.Contains(t, out+errs, tc.text)
				require.Equal(t, tc.ends, strings.Contains(out, "Import finished: "))
				require.Len(t, i.db.loaded.Apps, tc.apps)
				require.Len(t, i.db.tried(), tc.tried)
				tc.others(i.loaded())
				require.Equal(t, []string{"x.tgz"}, i.left())
			}
			_, errs, exit := i.load("--cluster", "x.tgz")
			require.Zero(t, exit, errs)
			require.Equal(t, shop(), i.loaded())
		})
	}
	i.patch(ImportPatch{Heal: true, Fault: new(ImportHalts), Times: new(1)})
	i.db.redeployed = nil
	_, errs, exit := i.load("--cluster", "x.tgz")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not redeploy shop/production/front", "the first one, when none is to fail")
	require.Len(t, i.db.tried(), 1)
	i.patch(ImportPatch{LoseServices: []string{"mysql", "shop/staging/directory"}})
	_, _, exit = i.load("--cluster", "x.tgz")
	require.Zero(t, exit)
	require.Equal(t, shop().Services[1:2], i.loaded().Services)
	i.patch(ImportPatch{Content: &Content{Orgs: []string{"other"}}})
	_, _, exit = i.load("--cluster", "x.tgz")
	require.Zero(t, exit)
	require.Equal(t, Content{Orgs: []string{"other"}}, i.loaded())
	for _, wrong := range []ImportPatch{{Fault: new(ImportFault("explodes"))}, {Seconds: new(-1.0)}, {FailShare: new(1.1)}, {Exit: new(256)}, {LeaveFailed: new(FailedApp("gone"))},
		{List: new(FailedList("none"))}, {Product: new(Product("cf"))}} {
		require.Error(t, i.c.PatchNode(coreID, StatePatch{Import: &wrong}))
	}
	_, err := ParseImportPatch(`{"fault":"halts","time":1}`)
	require.Error(t, err)
	p, err := ParseImportPatch(`{"fail_apps":[]}`)
	require.NoError(t, err)
	b, err := json.Marshal(p)
	require.NoError(t, err)
	require.JSONEq(t, `{"fail_apps":[]}`, string(b), "an empty list takes the apps back")
}

func TestDataImport_InMaintenanceMode_LoadsAndStartsNothing(t *testing.T) {
	i := importCluster(t, 100<<10)
	i.db.maintenance = true
	out, errs, exit := i.load("--cluster", "x.tgz")
	require.Zero(t, exit, errs)
	require.Equal(t, shop(), i.loaded())
	require.Equal(t, 4, strings.Count(out, "FAILED: Maintenance mode is enabled."))
	require.Equal(t, 4, strings.Count(out, "\n  shop/"), "all of them are listed")
}

func TestDataImport_AStagingThatDoesNotEnd_FailsAfterTheTimeout(t *testing.T) {
	i := importCluster(t, 100<<10)
	i.db.hangs = true
	i.patch(ImportPatch{Content: &Content{Apps: shop().Apps[:1]}})
	began := time.Now()
	out, errs, exit := i.load("--cluster", "--timeout=1", "x.tgz")
	require.Zero(t, exit, errs)
	require.Contains(t, out, "FAILED: staging timed out")
	require.Contains(t, out, "  shop/production/front\n")
	require.GreaterOrEqual(t, time.Since(began), time.Second)
}

func TestDataImport_Selectors_DecideWhatIsImported(t *testing.T) {
	i := importCluster(t, 100<<10)
	for _, tc := range []struct {
		name string
		node string
		args []string
		want Content
		told string
		not  string
	}{
		{"no main-db", coreID, []string{"--cluster", "--exclude-main-db"}, Content{}, "Importing droplets...", "main-db"},
		{"only a service", coreID, []string{"--cluster", "--mysql"}, Content{}, "Importing mysql...", "Importing droplets"},
		{"users and orgs", coreID, []string{"--cluster", "--only-users-orgs"}, Content{Orgs: shop().Orgs, Users: shop().Users}, "Importing aok-db...", "Importing mysql"},
		{"a node without the role primary", filesID, []string{"--only-this-node"}, Content{}, "Importing filesystem...", "main-db"},
		{"forced there", filesID, []string{"--manual", "--force", "--main-db"}, shop(), "Importing main-db...", "Importing filesystem"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i.db.loaded = Content{}
			var out, errs bytes.Buffer
			exit := i.begin(t.Context(), tc.node, &out, &errs, append(tc.args, "--base-dir", i.dir, "x.tgz")...)
			require.Zero(t, exit, errs.String())
			require.Equal(t, tc.want, i.loaded())
			require.Contains(t, out.String(), tc.told)
			require.NotContains(t, out.String(), tc.not)
		})
	}
}

func TestDataImport_WrongUsage_DoesNothing(t *testing.T) {
	i := importCluster(t, 100<<10)
	for _, args := range [][]string{{"x.tgz"}, {"--cluster"}, {"--cluster", "--only-this-node", "x.tgz"}, {"--cluster", "--manual", "x.tgz"}, {"--cluster", "--force", "x.tgz"},
		{"-cluster", "x.tgz"}, {"--cluster", "x.tgz", "y.tgz"}, {"--cluster", "x.tgz", "--timeout"}, {"--cluster", "--timeout", "0", "x.tgz"}, {"--cluster", "--timeout", "5s", "x.tgz"},
		{"--cluster", "--controller", "x.tgz"}} {
		out, errs, exit := i.load(args...)
		require.Equal(t, 1, exit, args)
		require.Empty(t, out)
		require.Contains(t, errs, "Usage:")
	}
	require.Empty(t, i.db.tried())
	_, errs, exit := i.run(filesID, "--cluster", "--fix-app-paths", "y.tgz")
	require.Equal(t, 1, exit, "an export has no such option")
	require.Contains(t, errs, "Usage:")
}

func TestDataImport_WhatTheClusterNeeds_IsNamedWhenItIsMissing(t *testing.T) {
	i := importCluster(t, 100<<10)
	refused := func(text string, args ...string) {
		t.Helper()
		_, errs, exit := i.load(args...)
		require.Equal(t, 1, exit)
		require.Contains(t, errs, text)
		require.Equal(t, Content{}, i.db.loaded)
		require.Equal(t, []string{"x.tgz"}, i.left())
	}
	refused("Could not read "+i.dir+"/y.tgz: ", "--cluster", "y.tgz")
	refused("Could not log in to old-core.example.com: ", "--cluster", "old-core.example.com")
	i.deny["10.0.0.2"] = errors.New("Permission denied (publickey)")
	refused("Could not log in from 10.0.0.1 to 10.0.0.2: Permission denied (publickey)", "--cluster", "x.tgz")
	delete(i.deny, "10.0.0.2")
	i.c.StopRole("10.0.0.2", "dea")
	refused("Role dea of node 10.0.0.2 is STOPPED: all roles must be started before an import", "--cluster", "x.tgz")
	i.c.StartRole("10.0.0.2", "dea")
	i.c.NodeDown("10.0.0.3")
	refused("Could not connect to node 10.0.0.3: No route to host", "--cluster", "x.tgz")
	_, errs, exit := i.load("--only-this-node", "x.tgz")
	require.Zero(t, exit, errs, "one node needs no other")
	i.sudo = errors.New("a password is required")
	out, _, exit := i.load("--only-this-node", "x.tgz")
	require.Equal(t, 1, exit)
	require.Contains(t, out, "[sudo] password for stackato")
	i.sudo, i.db.broken = nil, errors.New("the database system is shutting down")
	_, errs, exit = i.load("--only-this-node", "x.tgz")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not restore the database of role primary: the database system is shutting down")
	_, errs, exit = i.run(coreID, "--only-this-node", "y.tgz")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "Could not dump the database of role primary: the database system is shutting down")
}

func TestDataImport_OfWhatIsNoWholeArchive_SaysSoAndLoadsNothing(t *testing.T) {
	i := importCluster(t, 1<<20)
	whole, err := os.ReadFile(filepath.Join(i.dir, "x.tgz"))
	require.NoError(t, err)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2]++
	var outside bytes.Buffer
	z := gzip.NewWriter(&outside)
	a := tar.NewWriter(z)
	require.NoError(t, a.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "../evil", Size: 1}))
	_, err = a.Write([]byte("x"))
	require.NoError(t, errors.Join(err, a.Close(), z.Close()))
	for name, content := range map[string][]byte{"truncated": whole[:len(whole)*2/3], "without its last bytes": whole[:len(whole)-4], "one bit": flipped, "no gzip": []byte("hello\n"), "empty": nil,
		"leads out": outside.Bytes()} {
		require.NoError(t, os.WriteFile(filepath.Join(i.dir, "y.tgz"), content, 0o600))
		_, errs, exit := i.load("--cluster", "y.tgz")
		require.Equal(t, 1, exit, name)
		require.Contains(t, errs, "ERROR: Could not unpack "+i.dir+"/y.tgz: ", name)
		require.Equal(t, Content{}, i.db.loaded, name)
		require.Equal(t, []string{"x.tgz", "y.tgz"}, i.left())
	}
}

// fullFiles have no space for a file of some name.
type fullFiles struct {
	OSFiles
	name string
}

func (f fullFiles) Create(name string) (io.WriteCloser, error) {
	if strings.HasSuffix(name, f.name) {
		return nil, syscall.ENOSPC
	}
	return f.OSFiles.Create(name)
}

func TestDataImport_OnAFullDisk_LoadsNothing(t *testing.T) {
	i := importCluster(t, 100<<10)
	var errs bytes.Buffer
	exit := i.c.Run(t.Context(), Invocation{Args: []string{"data", "import", "--only-this-node", "--base-dir", i.dir, "x.tgz"}, Node: coreID, UID: 1000, Home: "/h", Path: "/h/bin", Stdin: strings.NewReader(""),
		Stdout: io.Discard, Stderr: &errs, Dir: i.dir, Files: fullFiles{name: "/droplets/0003"}})
	require.Equal(t, 1, exit)
	require.Contains(t, errs.String(), "Could not unpack "+i.dir+"/x.tgz: no space left on device")
	require.Equal(t, Content{}, i.db.loaded)
	require.Equal(t, []string{"x.tgz"}, i.left())
}

func TestDataImport_WhileOneRuns_NeitherImportsNorExportsAndAKilledOneLeavesItsPart(t *testing.T) {
	i := importCluster(t, 100<<10)
	i.patch(ImportPatch{Fault: new(ImportHangs), Times: new(1)})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan int, 1)
	go func() {
		ended <- i.begin(ctx, coreID, io.Discard, io.Discard, "--cluster", "--base-dir", i.dir, "x.tgz")
	}()
	require.Eventually(t, func() bool { return len(i.db.tried()) == 2 }, 10*time.Second, time.Millisecond)
	require.True(t, i.c.Importing(coreID))
	state, _ := i.c.NodeState(coreID)
	require.True(t, state.Importing)
	require.Empty(t, state.Import.Fault, "it is used up when the import begins")
	_, errs, exit := i.load("--only-this-node", "x.tgz")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: An import is already in progress.\n", errs)
	_, errs, exit = i.run(filesID, "--only-this-node", "y.tgz")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: An import is already in progress.\n", errs)
	stop()
	require.Equal(t, killedByTerm, <-ended)
	require.Equal(t, shop(), i.loaded(), "what was killed leaves what it has imported")
	require.Len(t, i.db.tried(), 2, "half of the apps that were started")
	require.Len(t, i.left(), 2, "and its temporary folder")
	_, errs, exit = i.load("--cluster", "x.tgz")
	require.Zero(t, exit, errs)

	i.exports.patch(ExportPatch{Fault: new(ExportHangs), Times: new(1)})
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	go func() {
		ended <- i.start(ctx, filesID, io.Discard, io.Discard, "--cluster", "--base-dir", i.dir, "y.tgz")
	}()
	require.Eventually(t, func() bool { return i.c.Exporting(filesID) }, 10*time.Second, time.Millisecond)
	_, errs, exit = i.load("--only-this-node", "x.tgz")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: An export is already in progress.\n", errs)
	stop()
	<-ended
}

func TestDataImport_Slow_CanBeKilledWhileItUnpacks(t *testing.T) {
	i := importCluster(t, 1<<20)
	i.patch(ImportPatch{Seconds: new(60.0)})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- i.begin(ctx, coreID, w, io.Discard, "--cluster", "--base-dir", i.dir, "x.tgz")
		w.Close()
	}()
	var told []byte
	buf := make([]byte, 1<<10)
	for !bytes.Contains(told, []byte("Unpacking")) {
		n, err := r.Read(buf)
		require.NoError(t, err)
		told = append(told, buf[:n]...)
	}
	go io.Copy(io.Discard, r)
	stop()
	require.Equal(t, killedByTerm, <-ended)
	require.Equal(t, Content{}, i.db.loaded)
	require.Len(t, i.left(), 2, "the temporary folder stays")
	i.patch(ImportPatch{Seconds: new(0.3)})
	began := time.Now()
	_, errs, exit := i.load("--cluster", "x.tgz")
	require.Zero(t, exit, errs)
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
}

func TestDatabase_BehindItsHandler_IsAsInProcess(t *testing.T) {
	db := &tables{content: shop()}
	server := httptest.NewServer(DatabaseHandler(db))
	defer server.Close()
	far := databaseAt{server.URL, server.Client()}
	got, err := far.Dump(t.Context())
	require.NoError(t, err)
	require.Equal(t, shop(), got)
	require.NoError(t, far.Load(t.Context(), shop()))
	require.Equal(t, shop(), db.loaded)
	want := Redeployment{Org: "a", Space: "b", App: "c", Seconds: 0.1, Stops: true}
	require.NoError(t, far.Redeploy(t.Context(), want))
	require.Equal(t, []Redeployment{want}, db.redeployed)
	want.Fails = true
	require.EqualError(t, far.Redeploy(t.Context(), want), "Staging error: staging failed")
	db.hangs = true
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	require.ErrorIs(t, far.Redeploy(ctx, want), context.DeadlineExceeded)
	db.broken = errors.New("no connection")
	_, err = far.Dump(t.Context())
	require.EqualError(t, err, "no connection")
	require.EqualError(t, far.Load(t.Context(), shop()), "no connection")
	server.Close()
	_, err = far.Dump(t.Context())
	require.ErrorContains(t, err, "could not connect to PostgreSQL")
}
