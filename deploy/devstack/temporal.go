package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/metrics"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// clusterName is Temporal's own name for this server in its (single) cluster.
const clusterName = "active"

// chosenPorts are the ports really used.
type chosenPorts struct {
	frontend, http, metrics   int
	history, matching, worker int
	ui, s3                    int
}

// newTemporalServer builds the server; the database must already hold the namespaces.
func newTemporalServer(o options, ports chosenPorts, database *config.SQL, logger log.Logger) (temporal.Server, error) {
	cfg := temporalConfig(o, ports, database)
	claimMapper, err := authorization.GetClaimMapperFromConfig(&cfg.Global.Authorization, logger)
	if err != nil {
		return nil, fmt.Errorf("temporal server: %w", err)
	}
	host := func(port int) static.Hosts { return static.SingleLocalHost(hostPort(o.ip, port)) }
	server, err := temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		// Fixed hosts instead of the membership ring: nothing to join at start, and no stale member after a SIGKILL.
		temporal.WithStaticHosts(map[primitives.ServiceName]static.Hosts{
			primitives.FrontendService: host(ports.frontend),
			primitives.HistoryService:  host(ports.history),
			primitives.MatchingService: host(ports.matching),
			primitives.WorkerService:   host(ports.worker),
		}),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claimMapper }),
		temporal.WithDynamicConfigClient(dynamicConfig(o.dynamicConfig)),
	)
	if err != nil {
		return nil, fmt.Errorf("temporal server: %w", err)
	}
	return server, nil
}

func temporalConfig(o options, ports chosenPorts, database *config.SQL) *config.Config {
	cfg := &config.Config{}
	cfg.Global.Membership.MaxJoinDuration = 30 * time.Second
	cfg.Global.Membership.BroadcastAddress = o.ip
	if ports.metrics != 0 {
		cfg.Global.Metrics = &metrics.Config{Prometheus: &metrics.PrometheusConfig{
			ListenAddress: hostPort(o.ip, ports.metrics),
			HandlerPath:   "/metrics",
		}}
	}
	cfg.Persistence = config.Persistence{
		DefaultStore:     sqliteplugin.PluginName,
		VisibilityStore:  sqliteplugin.PluginName,
		NumHistoryShards: 1,
		DataStores:       map[string]config.DataStore{sqliteplugin.PluginName: {SQL: database}},
	}
	cfg.ClusterMetadata = &cluster.Config{
		FailoverVersionIncrement: 10,
		MasterClusterName:        clusterName,
		CurrentClusterName:       clusterName,
		ClusterInformation: map[string]cluster.ClusterInformation{clusterName: {
			Enabled:                true,
			InitialFailoverVersion: 1,
			RPCAddress:             hostPort(o.ip, ports.frontend),
		}},
	}
	cfg.DCRedirectionPolicy.Policy = "noop"
	service := func(port, httpPort int) config.Service {
		return config.Service{RPC: config.RPC{GRPCPort: port, HTTPPort: httpPort, BindOnIP: o.ip}}
	}
	cfg.Services = map[string]config.Service{
		string(primitives.FrontendService): service(ports.frontend, ports.http),
		string(primitives.HistoryService):  service(ports.history, 0),
		string(primitives.MatchingService): service(ports.matching, 0),
		string(primitives.WorkerService):   service(ports.worker, 0),
	}
	const disabled = "disabled"
	cfg.Archival.History.State, cfg.Archival.Visibility.State = disabled, disabled
	cfg.NamespaceDefaults.Archival.History.State, cfg.NamespaceDefaults.Archival.Visibility.State = disabled, disabled
	cfg.PublicClient.HostPort = hostPort(o.ip, ports.frontend)
	return cfg
}

// dynamicConfig is the server's tuning for one process on a small machine that serves one site; overrides win.
func dynamicConfig(overrides dynamicconfig.StaticClient) dynamicconfig.StaticClient {
	// High enough that no limit of the server slows a load test; SQLite is the real limit.
	const unlimited = 1_000_000
	values := dynamicconfig.StaticClient{
		// Nothing leaves the machine.
		dynamicconfig.EnableServerVersionCheck.Key(): false,

		// A timer may not be set earlier than "last read of the timer queue + this shift"; the default of 1 s protects
		// against clock differences between hosts and delays every short timer and activity retry. Here is one host.
		dynamicconfig.TimerProcessorMaxTimeShift.Key(): 10 * time.Millisecond,
		// The queues' reads per second bound how often a new task is noticed.
		dynamicconfig.TimerProcessorMaxPollRPS.Key():      1000,
		dynamicconfig.TransferProcessorMaxPollRPS.Key():   1000,
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key(): 1000,
		// One partition a task queue: with few pollers, partitions only add forwarding between them.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,

		dynamicconfig.FrontendRPS.Key():                                         unlimited,
		dynamicconfig.FrontendMaxNamespaceRPSPerInstance.Key():                  unlimited,
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key():        10_000,
		dynamicconfig.FrontendMaxConcurrentLongRunningRequestsPerInstance.Key(): 100_000,
		dynamicconfig.FrontendNamespaceReplicationInducingAPIsRPS.Key():         1000,
		dynamicconfig.FrontendPersistenceMaxQPS.Key():                           unlimited,
		dynamicconfig.HistoryRPS.Key():                                          unlimited,
		dynamicconfig.HistoryPersistenceMaxQPS.Key():                            unlimited,
		dynamicconfig.MatchingRPS.Key():                                         unlimited,
		dynamicconfig.MatchingPersistenceMaxQPS.Key():                           unlimited,
		dynamicconfig.WorkerPersistenceMaxQPS.Key():                             unlimited,
		dynamicconfig.VisibilityPersistenceMaxReadQPS.Key():                     unlimited,
		dynamicconfig.VisibilityPersistenceMaxWriteQPS.Key():                    unlimited,
		dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key():             true,
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key():                        8192,

		// Background sweeps for large clusters; retention does what is needed here.
		dynamicconfig.HistoryScannerEnabled.Key():    false,
		dynamicconfig.TaskQueueScannerEnabled.Key():  false,
		dynamicconfig.ExecutionsScannerEnabled.Key(): false,
		dynamicconfig.BuildIdScavengerEnabled.Key():  false,
	}
	for key, value := range overrides {
		values[key] = value
	}
	return values
}

// newWebUI builds the Web UI's server. Its Start ends the process when the port cannot be bound.
func newWebUI(o options, ports chosenPorts) *uiserver.Server {
	host := o.uiIP
	if ip := net.ParseIP(host); ip.To4() == nil {
		host = "[" + host + "]" // the UI server joins host and port with a colon
	}
	return uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		Host:                host,
		Port:                ports.ui,
		TemporalGRPCAddress: hostPort(o.ip, ports.frontend),
		EnableUI:            true,
		DefaultNamespace:    o.namespaces[0],
		DisableNewsFetch:    true,
		NotifyOnNewVersion:  false,
		HideLogs:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true},
		// A terminated workflow runs no cleanup; operators cancel instead. Temporal's own pause stops nothing that
		// runs on a node and is off in the server; operations have a pause update.
		WorkflowTerminateDisabled: true,
		WorkflowPauseDisabled:     true,
	}))
}

// newLogger returns a logger to w and the switch that changes its level while it runs.
func newLogger(w io.Writer, level, format string) (*zap.Logger, zap.AtomicLevel) {
	atomic := zap.NewAtomicLevel()
	if level == "never" {
		return zap.NewNop(), atomic
	}
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		parsed = zapcore.WarnLevel
	}
	atomic.SetLevel(parsed)
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	encoder := zapcore.NewConsoleEncoder(encoding)
	if format == "json" {
		encoder = zapcore.NewJSONEncoder(encoding)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), atomic)
	return zap.New(expectedWarnings{core}), atomic
}

// expectedWarnings drops the warnings that devstack's own configuration always causes.
type expectedWarnings struct{ zapcore.Core }

func (c expectedWarnings) With(fields []zapcore.Field) zapcore.Core {
	return expectedWarnings{c.Core.With(fields)}
}

func (c expectedWarnings) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	// The HTTP API is only opened on request, see --http-port.
	if strings.HasPrefix(entry.Message, "HTTP API port has not been set.") {
		return checked
	}
	return c.Core.Check(entry, checked)
}
