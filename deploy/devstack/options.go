package main

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/dynamicconfig"
)

// options is what the user asked for, checked and with units; ports are still the wished ones (0 = any free port).
type options struct {
	ip, uiIP                   string
	port, uiPort, s3Port       int
	httpPort, metricsPort      int
	uiPortSet, s3PortSet       bool
	httpPortSet, metricsSet    bool
	headless, noS3             bool
	namespaces                 []string
	searchAttributes           map[string]enumspb.IndexedValueType
	retention                  time.Duration
	dynamicConfig              dynamicconfig.StaticClient
	sqlitePragmas              map[string]string
	databaseFile               string // absolute; empty: in memory
	dataDir                    string // absolute; empty: objects in a temporary folder
	s3Buckets                  []string
	s3AccessKey, s3SecretKey   string // both empty: stored or random
	portsFile                  string // absolute; empty: none
	logLevel, logFormat        string
	readyTimeout, stopDeadline time.Duration
}

// katoflowSearchAttributes are registered in every namespace: the columns katoflow's operations are found by.
func katoflowSearchAttributes() map[string]enumspb.IndexedValueType {
	return map[string]enumspb.IndexedValueType{
		"KatoflowCluster":       enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowOperation":     enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowPhase":         enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowNode":          enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		"KatoflowNeedsOperator": enumspb.INDEXED_VALUE_TYPE_BOOL,
	}
}

const (
	environmentS3AccessKey = "KATOFLOW_S3_ACCESS_KEY"
	environmentS3SecretKey = "KATOFLOW_S3_SECRET_KEY"

	defaultRetention = 7 * 24 * time.Hour
	// minimalRetention is the shortest history retention Temporal accepts for a namespace.
	minimalRetention = 24 * time.Hour
)

// flagValues are the command line as written, before it is checked.
type flagValues struct {
	options
	searchAttributeFlags, dynamicConfigFlags, sqlitePragmaFlags []string
}

func newStartCommand(stdout, stderr io.Writer) *cobra.Command {
	var v flagValues
	cmd := &cobra.Command{
		Use:   "start-dev",
		Short: "Start Temporal, its Web UI and the S3 server; run until SIGINT or SIGTERM",
		Long: `Start the Temporal server, its Web UI and an S3 server in this process and run until SIGINT or SIGTERM.

Everything listens on a loopback address only, because Temporal and the Web UI ask for no login.
Without --data and --db-filename nothing survives the process. With --data, the same folder goes on where
the last process ended, also after a SIGKILL.

The flags of "temporal server start-dev" that the Temporal SDKs' test suites pass are understood.`,
		Example: `  # everything in memory: Temporal on 7233, Web UI on 8233, S3 on 9233
  devstack server start-dev

  # data in a folder, with a bucket
  devstack server start-dev --data ~/.devstack --s3-bucket archives

  # free ports, their addresses as JSON once everything answers
  devstack server start-dev --port 0 --ports-file ports.json`,
		Args: noArguments,
	}
	f := cmd.Flags()
	f.StringVar(&v.ip, "ip", "127.0.0.1", "loopback address to listen on")
	f.IntVarP(&v.port, "port", "p", 7233, "port of Temporal's gRPC API; 0 = a free port")
	f.IntVar(&v.httpPort, "http-port", 0, "port of Temporal's HTTP API; 0 = a free port; flag absent = no HTTP API")
	f.IntVar(&v.metricsPort, "metrics-port", 0, "port of the Prometheus page /metrics; 0 = a free port; flag absent = no metrics")
	f.IntVar(&v.uiPort, "ui-port", 0, "port of the Web UI; 0 = a free port; flag absent = --port + 1000 if that is free, else a free port")
	f.StringVar(&v.uiIP, "ui-ip", "", "loopback address of the Web UI (default: --ip)")
	f.BoolVar(&v.headless, "headless", false, "no Web UI")
	f.StringSliceVarP(&v.namespaces, "namespace", "n", []string{"default"}, "namespace to register; repeatable")
	f.StringArrayVar(&v.searchAttributeFlags, "search-attribute", nil, "search attribute to register in every namespace, as NAME=TYPE; repeatable; katoflow's own are always registered")
	f.DurationVar(&v.retention, "retention", defaultRetention, "how long the history of a closed workflow is kept; at least 24h")
	f.StringArrayVar(&v.dynamicConfigFlags, "dynamic-config-value", nil, "Temporal dynamic configuration, as KEY=JSON; repeatable")
	f.StringArrayVar(&v.sqlitePragmaFlags, "sqlite-pragma", nil, "SQLite pragma, as NAME=VALUE; repeatable")
	f.StringVar(&v.databaseFile, "db-filename", "", "SQLite file of Temporal (default: in memory, or inside --data)")
	f.StringVar(&v.dataDir, "data", "", "folder for everything: Temporal's database, S3 objects, S3 keys")
	f.IntVar(&v.s3Port, "s3-port", 0, "port of the S3 server; 0 = a free port; flag absent = --port + 2000 if that is free, else a free port")
	f.StringArrayVar(&v.s3Buckets, "s3-bucket", nil, "bucket to create; repeatable")
	f.StringVar(&v.s3AccessKey, "s3-access-key", "", "S3 access key (default: $"+environmentS3AccessKey+", else the one stored in --data, else random)")
	f.StringVar(&v.s3SecretKey, "s3-secret-key", "", "S3 secret key (default: $"+environmentS3SecretKey+", else the one stored in --data, else random)")
	f.BoolVar(&v.noS3, "no-s3", false, "no S3 server")
	f.StringVar(&v.portsFile, "ports-file", "", "file written (mode 0600) with all addresses and the S3 keys, as JSON, once everything answers; removed at the end")
	f.StringVar(&v.logLevel, "log-level", "warn", "debug, info, warn, error or never")
	f.StringVar(&v.logFormat, "log-format", "pretty", "pretty, text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for name, set := range map[string]*bool{
			"ui-port": &v.uiPortSet, "s3-port": &v.s3PortSet, "http-port": &v.httpPortSet, "metrics-port": &v.metricsSet,
		} {
			*set = cmd.Flags().Changed(name)
		}
		opts, err := v.check(os.Getenv)
		if err != nil {
			return err
		}
		return run(cmd.Context(), opts, stdout, stderr)
	}
	return cmd
}

// check turns the command line into options. Every error is a usageError and names the flag.
func (v flagValues) check(getenv func(string) string) (options, error) {
	o := v.options
	o.readyTimeout, o.stopDeadline = 2*time.Minute, 9*time.Second

	var err error
	if o.ip, err = loopbackAddress("--ip", o.ip); err != nil {
		return o, err
	}
	if o.uiIP == "" {
		o.uiIP = o.ip
	}
	if o.uiIP, err = loopbackAddress("--ui-ip", o.uiIP); err != nil {
		return o, err
	}
	for _, p := range []struct {
		flag string
		port int
	}{{"--port", o.port}, {"--http-port", o.httpPort}, {"--metrics-port", o.metricsPort}, {"--ui-port", o.uiPort}, {"--s3-port", o.s3Port}} {
		if p.port < 0 || p.port > 65535 {
			return o, usagef("%s %d is not a port; use 1 to 65535, or 0 for a free one", p.flag, p.port)
		}
	}

	var namespaces []string
	for _, namespace := range o.namespaces {
		if strings.TrimSpace(namespace) == "" {
			return o, usagef("--namespace must not be empty")
		}
		if !slices.Contains(namespaces, namespace) {
			namespaces = append(namespaces, namespace)
		}
	}
	if o.namespaces = namespaces; len(namespaces) == 0 {
		return o, usagef("--namespace must not be empty")
	}
	if o.retention < minimalRetention {
		return o, usagef("--retention %s is too short; Temporal keeps histories for at least %s", o.retention, minimalRetention)
	}

	if o.searchAttributes, err = parseSearchAttributes(v.searchAttributeFlags); err != nil {
		return o, err
	}
	if o.dynamicConfig, err = parseDynamicConfig(v.dynamicConfigFlags); err != nil {
		return o, err
	}
	o.sqlitePragmas = map[string]string{}
	for _, pragma := range v.sqlitePragmaFlags {
		name, value, found := strings.Cut(pragma, "=")
		if !found || name == "" {
			return o, usagef("--sqlite-pragma %q is not NAME=VALUE", pragma)
		}
		o.sqlitePragmas[strings.ToLower(name)] = value
	}

	if o.dataDir != "" && o.databaseFile != "" {
		return o, usagef("--data and --db-filename exclude each other: --data keeps the database in its own folder")
	}
	// The S3 server changes the working directory of the process, so no relative path may be left.
	for _, path := range []*string{&o.dataDir, &o.databaseFile, &o.portsFile} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return o, usagef("the path cannot be made absolute: %w", err)
		}
	}
	if o.dataDir != "" {
		o.databaseFile = filepath.Join(o.dataDir, "temporal.db")
	}

	if o.noS3 && len(o.s3Buckets) > 0 {
		return o, usagef("--s3-bucket needs the S3 server; remove --no-s3")
	}
	if o.s3AccessKey == "" {
		o.s3AccessKey = getenv(environmentS3AccessKey)
	}
	if o.s3SecretKey == "" {
		o.s3SecretKey = getenv(environmentS3SecretKey)
	}
	if (o.s3AccessKey == "") != (o.s3SecretKey == "") {
		return o, usagef("S3 access key and secret key belong together; give both --s3-access-key ($%s) and --s3-secret-key ($%s), or none",
			environmentS3AccessKey, environmentS3SecretKey)
	}

	if !slices.Contains([]string{"debug", "info", "warn", "error", "never"}, o.logLevel) {
		return o, usagef("--log-level %q is unknown; use debug, info, warn, error or never", o.logLevel)
	}
	if !slices.Contains([]string{"pretty", "text", "json"}, o.logFormat) {
		return o, usagef("--log-format %q is unknown; use pretty, text or json", o.logFormat)
	}
	return o, nil
}

// loopbackAddress returns the IP address of a loopback host, or a usageError naming the flag.
func loopbackAddress(flag, host string) (string, error) {
	if host == "localhost" {
		return "127.0.0.1", nil
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return "", usagef("%s %q is not an IP address; use 127.0.0.1", flag, host)
	}
	if !ip.IsLoopback() {
		return "", usagef("%s %s is not a loopback address; devstack has no authentication, use 127.0.0.1", flag, host)
	}
	return ip.String(), nil
}

func parseSearchAttributes(flags []string) (map[string]enumspb.IndexedValueType, error) {
	attributes := katoflowSearchAttributes()
	for _, flag := range flags {
		name, typeName, found := strings.Cut(flag, "=")
		valueType, err := enumspb.IndexedValueTypeFromString(typeName)
		if !found || name == "" || err != nil || valueType == enumspb.INDEXED_VALUE_TYPE_UNSPECIFIED {
			return nil, usagef("--search-attribute %q is not NAME=TYPE with TYPE one of Bool, Datetime, Double, Int, Keyword, KeywordList, Text", flag)
		}
		if had, ok := attributes[name]; ok && had != valueType {
			return nil, usagef("--search-attribute %q: %s is already of type %s", flag, name, had)
		}
		attributes[name] = valueType
	}
	return attributes, nil
}

// parseDynamicConfig reads KEY=JSON; a value that is not JSON is taken as a string, so that KEY=10s works.
func parseDynamicConfig(flags []string) (dynamicconfig.StaticClient, error) {
	values := dynamicconfig.StaticClient{}
	for _, flag := range flags {
		key, text, found := strings.Cut(flag, "=")
		if !found || key == "" {
			return nil, usagef("--dynamic-config-value %q is not KEY=VALUE", flag)
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			value = text
		}
		values[dynamicconfig.MakeKey(key)] = value
	}
	return values, nil
}
