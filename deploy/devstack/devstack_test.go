package main_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// binary is the program under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "devstack-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "devstack")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build devstack: %v\n%s", err, output)
			return 1
		}
		return m.Run()
	}())
}

// found is what the ports file tells.
type found struct {
	PID      int    `json:"pid"`
	Frontend string `json:"frontend"`
	UI       string `json:"ui"`
	S3       *struct {
		Endpoint, Region, AccessKey, SecretKey string
		Buckets                                []string
	} `json:"s3"`
}

// process is a running devstack.
type process struct {
	found
	cmd       *exec.Cmd
	output    *bytes.Buffer // complete once exited is closed
	exited    chan struct{}
	portsFile string
}

// start runs devstack with free ports and waits for its ports file.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{output: &bytes.Buffer{}, exited: make(chan struct{}), portsFile: filepath.Join(t.TempDir(), "ports.json")}
	p.cmd = exec.Command(binary, append([]string{"server", "start-dev", "--port", "0", "--ports-file", p.portsFile}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.exited })
	eventually(t, time.Minute, func() error {
		select {
		case <-p.exited:
			t.Fatalf("devstack ended at once: %s", p.output)
		default:
		}
		return readPorts(p.portsFile, &p.found)
	})
	return p
}

// stop sends a signal and returns the exit code.
func (p *process) stop(t *testing.T, signal os.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		t.Fatalf("devstack did not end within 10 s of %s", signal)
	}
	return p.cmd.ProcessState.ExitCode()
}

func readPorts(file string, to *found) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, to)
}

func (p *process) dial(t testing.TB) client.Client { return dial(t, p.Frontend) }

func dial(t testing.TB, address string) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: address, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// refused runs devstack with arguments it must refuse and returns the exit code and what it printed.
func refused(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("devstack %s: want an exit code, got %v: %s", strings.Join(args, " "), err, output)
	}
	return exit.ExitCode(), string(output)
}

// wantRefusal checks for exit code 2 and one line holding all parts.
func wantRefusal(t *testing.T, code int, output string, parts ...string) {
	t.Helper()
	if code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	if strings.Count(output, "\n") != 1 {
		t.Errorf("want one line, got %q", output)
	}
	for _, part := range parts {
		if !strings.Contains(output, part) {
			t.Errorf("want %q in %q", part, output)
		}
	}
}

func eventually(t testing.TB, within time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

var _ log.Logger = silent{}

func TestStart_BySDKTestSuite_EverythingAnswers(t *testing.T) {
	portsFile := filepath.Join(t.TempDir(), "ports.json")
	var output bytes.Buffer
	server, err := testsuite.StartDevServer(t.Context(), testsuite.DevServerOptions{
		ExistingPath: binary,
		EnableUI:     true,
		DBFilename:   filepath.Join(t.TempDir(), "temporal.db"),
		LogLevel:     "error",
		LogFormat:    "json",
		ClientOptions: &client.Options{
			Logger: silent{},
		},
		SearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword("Extra").ValueSet("x"),
			temporal.NewSearchAttributeKeyInt64("Count").ValueSet(1),
			temporal.NewSearchAttributeKeyKeywordList("List").ValueSet(nil),
		),
		ExtraArgs: []string{"--ports-file", portsFile, "--s3-bucket", "archives", "--s3-bucket", "reports"},
		Stdout:    &output, Stderr: &output,
	})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = server.Stop()
		}
	})
	var at found
	eventually(t, time.Minute, func() error { return readPorts(portsFile, &at) })
	if at.Frontend != server.FrontendHostPort() {
		t.Errorf("ports file says %s, want %s", at.Frontend, server.FrontendHostPort())
	}
	if info, err := os.Stat(portsFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the ports file holds keys and must have mode 0600, got %v, %v", info.Mode(), err)
	}

	t.Run("namespace keeps histories for 7 days", func(t *testing.T) {
		wantRetention(t, server.Client(), 7*24*time.Hour)
	})
	t.Run("search attributes are registered", func(t *testing.T) {
		wantSearchAttributes(t, server.Client(), map[string]enumspb.IndexedValueType{
			"KatoflowCluster":       enumspb.INDEXED_VALUE_TYPE_KEYWORD,
			"KatoflowOperation":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
			"KatoflowPhase":         enumspb.INDEXED_VALUE_TYPE_KEYWORD,
			"KatoflowNode":          enumspb.INDEXED_VALUE_TYPE_KEYWORD,
			"KatoflowNeedsOperator": enumspb.INDEXED_VALUE_TYPE_BOOL,
			"Extra":                 enumspb.INDEXED_VALUE_TYPE_KEYWORD,
			"Count":                 enumspb.INDEXED_VALUE_TYPE_INT,
			"List":                  enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
		})
	})
	t.Run("web ui answers and offers no terminate", func(t *testing.T) {
		if code, body := get(t, at.UI+"/"); code != http.StatusOK || !strings.Contains(body, "<html") {
			t.Errorf("GET / answers %d: %.200s", code, body)
		}
		code, body := get(t, at.UI+"/api/v1/settings")
		var settings map[string]any
		if err := json.Unmarshal([]byte(body), &settings); code != http.StatusOK || err != nil {
			t.Fatalf("settings: %d, %v: %s", code, err, body)
		}
		for name, want := range map[string]bool{
			"DisableWriteActions": false, "WorkflowTerminateDisabled": true, "WorkflowCancelDisabled": false,
			"WorkflowSignalDisabled": false, "WorkflowUpdateDisabled": false, "WorkflowResetDisabled": false,
		} {
			if settings[name] != want {
				t.Errorf("setting %s is %v, want %v", name, settings[name], want)
			}
		}
	})
	t.Run("workflow with children, update with start and search", func(t *testing.T) {
		wantWorkflowsRun(t, server.Client())
	})
	t.Run("s3 keeps objects", func(t *testing.T) { wantS3(t, at) })

	stopped = true
	if err := server.Stop(); err != nil {
		t.Errorf("stop: %v; output: %s", err, &output)
	}
	if _, err := os.Stat(portsFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ports file must be gone after the end, got %v", err)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func wantRetention(t *testing.T, c client.Client, want time.Duration) {
	t.Helper()
	namespace, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if got := namespace.Config.WorkflowExecutionRetentionTtl.AsDuration(); got != want {
		t.Errorf("retention is %s, want %s", got, want)
	}
}

func wantSearchAttributes(t *testing.T, c client.Client, want map[string]enumspb.IndexedValueType) {
	t.Helper()
	got, err := c.OperatorService().ListSearchAttributes(t.Context(), &operatorservice.ListSearchAttributesRequest{Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for name, valueType := range want {
		if got.CustomAttributes[name] != valueType {
			t.Errorf("search attribute %s is %s, want %s", name, got.CustomAttributes[name], valueType)
		}
	}
	if len(got.CustomAttributes) != len(want) {
		t.Errorf("got %d search attributes, want %d: %v", len(got.CustomAttributes), len(want), got.CustomAttributes)
	}
}

var (
	clusterKey = temporal.NewSearchAttributeKeyKeyword("KatoflowCluster")
	needsKey   = temporal.NewSearchAttributeKeyBool("KatoflowNeedsOperator")
)

// parentWorkflow runs children at the same time, each with a short timer and an activity.
func parentWorkflow(ctx workflow.Context, children int) (int, error) {
	if err := workflow.SetUpdateHandler(ctx, "greet", func(_ workflow.Context, name string) (string, error) {
		return "hello " + name, nil
	}); err != nil {
		return 0, err
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, clusterKey.ValueSet("alpha"), needsKey.ValueSet(true)); err != nil {
		return 0, err
	}
	futures := make([]workflow.ChildWorkflowFuture, children)
	for i := range futures {
		futures[i] = workflow.ExecuteChildWorkflow(ctx, childWorkflow, i)
	}
	sum := 0
	for _, future := range futures {
		var n int
		if err := future.Get(ctx, &n); err != nil {
			return 0, err
		}
		sum += n
	}
	err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
	return sum, err
}

func childWorkflow(ctx workflow.Context, n int) (int, error) {
	if err := workflow.Sleep(ctx, 10*time.Millisecond); err != nil {
		return 0, err
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	err := workflow.ExecuteActivity(ctx, echoActivity, n).Get(ctx, &n)
	return n, err
}

func echoActivity(_ context.Context, n int) (int, error) { return n, nil }

// waitingWorkflow ends when it is told to.
func waitingWorkflow(ctx workflow.Context) (string, error) {
	var word string
	workflow.GetSignalChannel(ctx, "end").Receive(ctx, &word)
	return word, nil
}

const taskQueue = "devstack-test"

func startWorker(t *testing.T, c client.Client) {
	t.Helper()
	w := worker.New(c, taskQueue, worker.Options{})
	w.RegisterWorkflow(parentWorkflow)
	w.RegisterWorkflow(childWorkflow)
	w.RegisterWorkflow(waitingWorkflow)
	w.RegisterActivity(echoActivity)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sync.OnceFunc(w.Stop))
}

func wantWorkflowsRun(t *testing.T, c client.Client) {
	startWorker(t, c)
	const children = 100
	operation := c.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
		ID: "parent", TaskQueue: taskQueue, WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
	}, parentWorkflow, children)
	began := time.Now()
	update, err := c.UpdateWithStartWorkflow(t.Context(), client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: operation,
		UpdateOptions: client.UpdateWorkflowOptions{
			WorkflowID: "parent", UpdateName: "greet", Args: []any{"operator"}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var greeting string
	if err := update.Get(t.Context(), &greeting); err != nil || greeting != "hello operator" {
		t.Errorf("update with start: %q, %v", greeting, err)
	}
	run, err := operation.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var sum int
	if err := run.Get(t.Context(), &sum); err != nil || sum != children*(children-1)/2 {
		t.Errorf("parent: %d, %v", sum, err)
	}
	t.Logf("%d children with a timer and an activity each took %s", children, time.Since(began).Round(time.Millisecond))

	eventually(t, 10*time.Second, func() error {
		count, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
			Namespace: "default", Query: `KatoflowCluster = "alpha" AND KatoflowNeedsOperator = true AND ExecutionStatus = "Completed"`,
		})
		if err == nil && count.Count != 1 {
			err = fmt.Errorf("found %d workflows by search attribute, want 1", count.Count)
		}
		return err
	})
}

func wantS3(t *testing.T, at found) {
	if at.S3 == nil {
		t.Fatal("the ports file names no s3 server")
	}
	c := s3.New(s3.Options{
		BaseEndpoint: aws.String(at.S3.Endpoint), Region: at.S3.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(at.S3.AccessKey, at.S3.SecretKey, ""),
	})
	ctx := t.Context()
	buckets, err := c.ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil {
		t.Fatal(err)
	}
	if len(buckets.Buckets) != 2 {
		t.Errorf("got %d buckets, want archives and reports", len(buckets.Buckets))
	}
	bucket := aws.String("archives")
	read := func(key string) []byte {
		t.Helper()
		object, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String(key)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = object.Body.Close() }()
		content, err := io.ReadAll(object.Body)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}

	small := []byte("a manifest")
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{
		Bucket: bucket, Key: aws.String("folder/manifest"), Body: bytes.NewReader(small), Metadata: map[string]string{"operation": "op-1"},
	}); err != nil {
		t.Fatal(err)
	}
	if got := read("folder/manifest"); !bytes.Equal(got, small) {
		t.Errorf("read %q, want %q", got, small)
	}
	head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: aws.String("folder/manifest")})
	if err != nil || head.Metadata["operation"] != "op-1" {
		t.Errorf("metadata %v, %v", head.Metadata, err)
	}

	key := aws.String("archive")
	upload, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var whole []byte
	var parts []s3types.CompletedPart
	for i, size := range []int{5 << 20, 5 << 20, 1234} {
		content := bytes.Repeat([]byte{byte('a' + i)}, size)
		number := aws.Int32(int32(i + 1))
		part, err := c.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: bucket, Key: key, UploadId: upload.UploadId, PartNumber: number, Body: bytes.NewReader(content),
		})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, s3types.CompletedPart{ETag: part.ETag, PartNumber: number})
		whole = append(whole, content...)
	}
	if _, err := c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: key, UploadId: upload.UploadId, MultipartUpload: &s3types.CompletedMultipartUpload{Parts: parts},
	}); err != nil {
		t.Fatal(err)
	}
	if got := read("archive"); !bytes.Equal(got, whole) {
		t.Errorf("read %d bytes that differ from the %d uploaded in parts", len(got), len(whole))
	}

	stranger := s3.New(s3.Options{
		BaseEndpoint: aws.String(at.S3.Endpoint), Region: at.S3.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(at.S3.AccessKey, "wrong", ""),
	})
	if _, err := stranger.ListBuckets(ctx, &s3.ListBucketsInput{}); err == nil {
		t.Error("a wrong secret key was accepted")
	}
}

func TestRestart_AfterSIGKILL_WorkflowsAndObjectsGoOn(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	first := start(t, "--data", data, "--s3-bucket", "archives")
	run, err := first.dial(t).ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "waits", TaskQueue: taskQueue}, waitingWorkflow)
	if err != nil {
		t.Fatal(err)
	}
	first.stop(t, syscall.SIGKILL)

	second := start(t, "--data", data, "--s3-bucket", "archives", "--search-attribute", "Later=Keyword", "--retention", "48h")
	c := second.dial(t)
	description, err := c.DescribeWorkflowExecution(t.Context(), "waits", run.GetRunID())
	if err != nil {
		t.Fatal(err)
	}
	if status := description.WorkflowExecutionInfo.Status; status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		t.Errorf("the workflow is %s after the restart, want running", status)
	}
	startWorker(t, c)
	if err := c.SignalWorkflow(t.Context(), "waits", run.GetRunID(), "end", "done"); err != nil {
		t.Fatal(err)
	}
	var word string
	if err := c.GetWorkflow(t.Context(), "waits", run.GetRunID()).Get(t.Context(), &word); err != nil || word != "done" {
		t.Errorf("the workflow ended with %q, %v", word, err)
	}
	if second.S3.SecretKey != first.S3.SecretKey {
		t.Error("the S3 keys of the data folder changed")
	}
	// What the second start asked for beyond the first one.
	wantSearchAttributes(t, c, map[string]enumspb.IndexedValueType{
		"KatoflowCluster":       enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowOperation":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowPhase":         enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowNode":          enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowNeedsOperator": enumspb.INDEXED_VALUE_TYPE_BOOL,
		"Later":                 enumspb.INDEXED_VALUE_TYPE_KEYWORD,
	})
	wantRetention(t, c, 48*time.Hour)

	code, output := refused(t, "server", "start-dev", "--port", "0", "--data", data)
	wantRefusal(t, code, output, "in use by another devstack", strconv.Itoa(second.PID))

	if code := second.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after SIGTERM: %s", code, second.output)
	}
	code, output = refused(t, "server", "start-dev", "--port", "0", "--data", data, "--search-attribute", "Later=Int")
	wantRefusal(t, code, output, "Later", "registered as Keyword, not Int")
}

func TestStart_DatabaseOfAnotherVersion_IsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "temporal.db")
	statement := func(query string) {
		t.Helper()
		db, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"server", "start-dev", "--port", "0", "--no-s3", "--headless", "--db-filename", file}

	statement(`CREATE TABLE namespaces (id INTEGER)`)
	code, output := refused(t, args...)
	wantRefusal(t, code, output, file, "made by another program", "delete")

	statement(`CREATE TABLE devstack (server_version TEXT, created_at TEXT); INSERT INTO devstack VALUES ('1.2.3', '')`)
	code, output = refused(t, args...)
	wantRefusal(t, code, output, file, "made by Temporal server 1.2.3", "delete")

	if err := os.WriteFile(file, []byte("not a database, but long enough to be read as one"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, output = refused(t, args...)
	wantRefusal(t, code, output, file, "delete it")
}

func TestStart_PortInUse_NamesPortAndFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for _, flag := range []string{"--port", "--ui-port", "--s3-port", "--http-port", "--metrics-port"} {
		t.Run(flag, func(t *testing.T) {
			args := []string{"server", "start-dev", flag, taken}
			if flag != "--port" {
				args = append(args, "--port", "0")
			}
			code, output := refused(t, args...)
			wantRefusal(t, code, output, "port "+taken, "in use", flag)
		})
	}
}

func TestStart_UnusableArguments_AreRefused(t *testing.T) {
	dir := t.TempDir()
	for name, row := range map[string]struct {
		args []string
		want []string
	}{
		"address of all interfaces":    {[]string{"--ip", "0.0.0.0"}, []string{"--ip 0.0.0.0", "not a loopback"}},
		"public address":               {[]string{"--ip", "192.0.2.1"}, []string{"--ip 192.0.2.1", "not a loopback"}},
		"public address of the web ui": {[]string{"--ui-ip", "::"}, []string{"--ui-ip ::", "not a loopback"}},
		"host name":                    {[]string{"--ip", "example.com"}, []string{"--ip", "not an IP address"}},
		"port above 65535":             {[]string{"--port", "65536"}, []string{"--port 65536"}},
		"unknown flag":                 {[]string{"--prot", "1"}, []string{"unknown flag: --prot"}},
		"surplus argument":             {[]string{"now"}, []string{`unknown argument "now"`}},
		"search attribute without type": {
			[]string{"--search-attribute", "Name"}, []string{`"Name"`, "NAME=TYPE", "Keyword"},
		},
		"search attribute of another type than katoflow's": {
			[]string{"--search-attribute", "KatoflowNode=Int"}, []string{"KatoflowNode", "Keyword"},
		},
		"more search attributes than columns": {
			[]string{"--search-attribute", "A=Bool", "--search-attribute", "B=Bool", "--search-attribute", "C=Bool"}, []string{"only 3 of type bool"},
		},
		"retention too short":       {[]string{"--retention", "1h"}, []string{"--retention 1h", "24h"}},
		"access key without secret": {[]string{"--s3-access-key", "a"}, []string{"--s3-secret-key"}},
		"bucket without s3":         {[]string{"--no-s3", "--s3-bucket", "b"}, []string{"--s3-bucket", "--no-s3"}},
		"two places for data":       {[]string{"--data", dir, "--db-filename", "x"}, []string{"--data", "--db-filename"}},
		"database in no folder": {
			[]string{"--db-filename", filepath.Join(dir, "missing", "x.db")}, []string{"missing", "no such file"},
		},
		"empty namespace":        {[]string{"--namespace", ""}, []string{"--namespace"}},
		"unknown log level":      {[]string{"--log-level", "loud"}, []string{"--log-level", "warn"}},
		"unknown log format":     {[]string{"--log-format", "xml"}, []string{"--log-format", "json"}},
		"dynamic config, no '='": {[]string{"--dynamic-config-value", "key"}, []string{"KEY=VALUE"}},
		"pragma, no '='":         {[]string{"--sqlite-pragma", "wal"}, []string{"NAME=VALUE"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"server", "start-dev"}
			if row.args[0] != "--port" {
				args = append(args, "--port", "0")
			}
			code, output := refused(t, append(args, row.args...)...)
			wantRefusal(t, code, output, row.want...)
		})
	}
}

func TestStart_NothingAsked_LeavesNothingBehind(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("KATOFLOW_S3_ACCESS_KEY", "fromenvironment")
	t.Setenv("KATOFLOW_S3_SECRET_KEY", "a-secret-of-the-environment")
	p := start(t, "--namespace", "one", "--namespace", "two", "--metrics-port", "0", "--http-port", "0",
		"--sqlite-pragma", "temp_store=memory", "--dynamic-config-value", "limit.maxIDLength=100", "--ip", "localhost")
	if p.S3.AccessKey != "fromenvironment" {
		t.Errorf("access key %q, want the one of the environment", p.S3.AccessKey)
	}
	namespaces, err := p.dial(t).WorkflowService().ListNamespaces(t.Context(), &workflowservice.ListNamespacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, n := range namespaces.Namespaces {
		names[n.NamespaceInfo.Name] = true
	}
	if !names["one"] || !names["two"] || names["default"] {
		t.Errorf("namespaces %v, want one and two only", names)
	}
	if code := p.stop(t, os.Interrupt); code != 0 {
		t.Errorf("exit code %d after SIGINT: %s", code, p.output)
	}
	if strings.Contains(p.output.String(), "a-secret-of-the-environment") {
		t.Errorf("a given secret key was printed: %s", p.output)
	}
	left, err := filepath.Glob(filepath.Join(temporary, "devstack-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestVersion_Printed_NamesAllThreeParts(t *testing.T) {
	output, err := exec.Command(binary, "version").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, want := range []string{"temporal-server  v1.32.1", "temporal-ui      v2.55.0", "versitygw        v1.8.0"} {
		if !strings.Contains(string(output), want) {
			t.Errorf("want %q in %q", want, output)
		}
	}
}

func TestHelp_OfEveryCommand_IsPrinted(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"server", "--help"}, {"server", "start-dev", "--help"}, {"version", "--help"}} {
		output, err := exec.Command(binary, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(output), "Usage:") {
			t.Errorf("devstack %s: %v: %s", strings.Join(args, " "), err, output)
		}
	}
}
