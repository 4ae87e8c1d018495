package inventory

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	generator "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files and the schema instead of comparing with them")

const (
	durationPattern  = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`
	retentionPattern = `^([0-9]{1,5}d|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
	hostPattern      = `^[A-Za-z0-9.:%_-]+$`
	urlPattern       = `^https?://[^/@\s]+/?$`
)

// generateSchema makes the schema from the types and their comments, and adds what Go's types cannot say.
func generateSchema(t *testing.T) []byte {
	t.Helper()
	r := &generator.Reflector{FieldNameTag: "yaml", Anonymous: true}
	r.Mapper = func(typ reflect.Type) *generator.Schema {
		switch typ {
		case reflect.TypeFor[Duration]():
			return &generator.Schema{Type: "string", Pattern: durationPattern}
		case reflect.TypeFor[Retention]():
			return &generator.Schema{Type: "string", Pattern: retentionPattern}
		case reflect.TypeFor[Platform]():
			return &generator.Schema{Type: "string", Enum: []any{string(PlatformALS), string(PlatformPlain)}}
		}
		return nil
	}
	require.NoError(t, r.AddGoComments("github.com/katoflow/katoflow/internal/inventory", "./", generator.WithFullComment()))
	s := r.Reflect(&File{})
	s.ID = ""
	s.Title = "katoflow inventory"

	def := func(name string) *generator.Schema {
		d, ok := s.Definitions[name]
		require.True(t, ok, "no definition of %s", name)
		return d
	}
	prop := func(name, field string) *generator.Schema {
		p, ok := def(name).Properties.Get(field)
		require.True(t, ok, "%s has no field %s", name, field)
		return p
	}
	number := func(name, field string, least, most string) {
		p := prop(name, field)
		p.Minimum, p.Maximum = json.Number(least), json.Number(most)
	}
	enum := func(values ...string) []any {
		var list []any
		for _, v := range values {
			list = append(list, v)
		}
		return list
	}
	list := func(name, field string, least uint64) *generator.Schema {
		p := prop(name, field)
		p.MinItems = &least
		most := uint64(maxItems)
		p.MaxItems = &most
		return p
	}
	one := uint64(1)

	clusters := prop("File", "clusters")
	clusters.PropertyNames = &generator.Schema{Pattern: clusterNameForm.String()}
	clusters.MinProperties = &one
	def("File").Required = []string{"clusters"}

	def("Secret").OneOf = []*generator.Schema{{Required: []string{"file"}}, {Required: []string{"env"}}}
	prop("Secret", "file").MinLength = &one
	prop("Secret", "env").Pattern = envForm.String()

	nodes := list("Cluster", "nodes", 1)
	most := uint64(maxNodes)
	nodes.MaxItems = &most
	prop("Node", "name").Pattern = clusterNameForm.String()[:len(clusterNameForm.String())-1] + `(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`
	prop("Node", "name").Not = &generator.Schema{Const: ReservedNodeName}
	prop("Node", "address").Pattern = hostPattern
	prop("Node", "roles").UniqueItems = true
	prop("Node", "roles").Items.Pattern = roleForm.String()
	list("Node", "gate_commands", 1)
	number("SSH", "port", "1", "65535")
	number("SSH", "max_sessions", "1", "100")
	prop("SSH", "user").Pattern = userForm.String()
	prop("SSH", "bastion").Pattern = `^([A-Za-z_][A-Za-z0-9_.-]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]+)?$`
	list("SSH", "key_files", 1)
	list("SSH", "known_hosts", 1)
	prop("Kato", "path").Pattern = `^/`
	prop("Proxy", "http").Pattern = urlPattern
	prop("Proxy", "https").Pattern = urlPattern
	prop("Proxy", "no_proxy").Pattern = noProxyForm.String()
	number("Gates", "times", "1", "100")
	list("Gates", "commands", 1)
	list("Notify", "command", 1)
	on := list("Notify", "on", 1)
	on.UniqueItems = true
	on.Items.Enum = enum(NotifyEvents()...)
	prop("S3", "endpoint").Pattern = urlPattern
	prop("S3", "bucket").Pattern = bucketForm.String()
	prop("S3", "region").Pattern = regionForm.String()
	prop("S3", "prefix").Pattern = prefixForm.String()
	prop("S3", "encryption").Enum = enum(S3Encryptions()...)
	prop("S3", "kms_key").Pattern = kmsKeyForm.String()
	prop("S3", "storage_class").Pattern = storageForm.String()
	prop("S3", "lock_mode").Enum = enum(S3LockModes()...)
	def("S3").DependentRequired = map[string][]string{
		"access_key": {"secret_key"}, "secret_key": {"access_key"}, "session_token": {"access_key", "secret_key"},
		"kms_key": {"encryption"}, "lock_mode": {"lock_for"}, "lock_for": {"lock_mode"},
	}
	prop("Controller", "url").Pattern = urlPattern
	prop("Controller", "user").MinLength = &one
	prop("HypervisorEC2", "region").Pattern = ec2RegionForm.String()
	prop("HypervisorEC2", "endpoint").Pattern = urlPattern
	tags, mostTags := prop("HypervisorEC2", "tags"), uint64(MostEC2Tags)
	tags.MaxProperties = &mostTags
	tags.PropertyNames = &generator.Schema{Pattern: ec2TagKeyForm.String()}
	tags.AdditionalProperties.Pattern = ec2TagValueForm.String()
	def("HypervisorEC2").DependentRequired = map[string][]string{"access_key": {"secret_key"}, "secret_key": {"access_key"}, "session_token": {"access_key", "secret_key"}}
	prop("HypervisorOpenStack", "auth_url").Pattern = `^https?://[^/@\s]+(/[^@\s?#]*)?$`
	prop("HypervisorVSphere", "url").Pattern = `^https?://[^/@\s]+(/|/sdk/?)?$`
	prop("HypervisorVSphere", "user").MinLength = &one
	number("HypervisorVSphere", "free_percent", "1", "100")
	prop("Export", "node").Pattern = prop("Node", "name").Pattern
	prop("Export", "folder").Pattern = folderForm.String()
	list("Export", "data_folders", 1).Items.Pattern = folderForm.String()
	for _, kind := range []string{"services", "droplets", "containers"} {
		prop("Kato", kind).Pattern = folderForm.String()
	}

	// Roles are kato's on als; kato, core, controller and export belong to als only.
	properties := func(pairs ...any) *generator.Schema {
		p := generator.NewProperties()
		for i := 0; i < len(pairs); i += 2 {
			p.Set(pairs[i].(string), pairs[i+1].(*generator.Schema))
		}
		return &generator.Schema{Properties: p}
	}
	c := def("Cluster")
	c.If = properties("platform", &generator.Schema{Const: string(PlatformALS)})
	c.If.Required = []string{"platform"}
	alsNode := properties("roles", &generator.Schema{MinItems: &one, Items: &generator.Schema{Enum: enum(RoleNames()...)}})
	alsNode.Required = []string{"roles"}
	c.Then = properties("nodes", &generator.Schema{Items: alsNode})
	c.Else = properties("kato", generator.FalseSchema, "controller", generator.FalseSchema, "export", generator.FalseSchema, "images", generator.FalseSchema, "nodes", &generator.Schema{Items: properties("core", &generator.Schema{Const: false})})

	b, err := json.MarshalIndent(s, "", "  ")
	require.NoError(t, err)
	return append(b, '\n')
}

// The file is written by: go generate ./internal/inventory
func TestSchema_CheckedInCopy_IsCurrent(t *testing.T) {
	want := generateSchema(t)
	if *update {
		require.NoError(t, os.WriteFile("inventory.schema.json", want, 0o644))
		return
	}
	got, err := Schema()
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), "run: go generate ./internal/inventory")
	for _, line := range strings.Split(string(got), "\n") {
		assert.NotContains(t, line, `"description": ""`)
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	b, err := Schema()
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("inventory.schema.json", doc))
	s, err := c.Compile("inventory.schema.json")
	require.NoError(t, err)
	return s
}

func instance(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	require.NoError(t, yaml.Unmarshal(data, &v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	return doc
}

func TestSchema_ValidInventories_Validate(t *testing.T) {
	s := compileSchema(t)
	paths, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	examples, err := filepath.Glob("../../deploy/examples/inventory*.yaml")
	require.NoError(t, err)
	for _, p := range append(paths, examples...) {
		p = strings.TrimSuffix(p, ".json")
		if !strings.HasSuffix(p, ".yaml") {
			p += ".yaml"
		}
		t.Run(filepath.Base(p), func(t *testing.T) {
			data, err := os.ReadFile(p)
			require.NoError(t, err)
			assert.NoError(t, s.Validate(instance(t, data)))
		})
	}
}

func TestSchema_BadInventories_DoNotValidate(t *testing.T) {
	s := compileSchema(t)
	for name, text := range map[string]string{
		"no clusters":          "{}",
		"no nodes":             "clusters: {a: {}}",
		"empty nodes":          "clusters: {a: {nodes: []}}",
		"cluster name":         "clusters: {'a; reboot': {nodes: [{name: n, address: 192.0.2.1}]}}",
		"unknown field":        "clusters: {a: {nodes: [{name: n, address: 192.0.2.1, adress: x}]}}",
		"no address":           "clusters: {a: {nodes: [{name: n}]}}",
		"reserved name":        "clusters: {a: {nodes: [{name: cluster, address: 192.0.2.1}]}}",
		"port":                 "clusters: {a: {ssh: {port: 70000}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"platform":             "clusters: {a: {platform: k8s, nodes: [{name: n, address: 192.0.2.1}]}}",
		"als without roles":    "clusters: {a: {platform: als, nodes: [{name: n, address: 192.0.2.1}]}}",
		"als unknown role":     "clusters: {a: {platform: als, nodes: [{name: n, address: 192.0.2.1, roles: [core]}]}}",
		"kato on plain":        "clusters: {a: {kato: {timeout: 1m}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"duration":             "clusters: {a: {gates: {interval: '5'}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"secret in clear text": "clusters: {a: {ssh: {passphrase: x}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"secret of both kinds": "clusters: {a: {ssh: {passphrase: {file: x, env: Y}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"secret of no kind":    "clusters: {a: {ssh: {passphrase: {}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"event":                "clusters: {a: {notify: {command: [x], on: [broken]}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"lock without an end":  "clusters: {a: {s3: {bucket: abc, lock_mode: GOVERNANCE}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"encryption":           "clusters: {a: {s3: {bucket: abc, encryption: AES}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"retention":            "clusters: {a: {s3: {bucket: abc, lock_mode: GOVERNANCE, lock_for: 1y}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"controller on plain":  "clusters: {a: {controller: {url: 'https://a', user: u, password: {env: P}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"no password":          "clusters: {a: {platform: als, controller: {url: 'https://a', user: u}, nodes: [{name: n, address: 192.0.2.1, roles: [primary]}]}}",
		"ec2 without region":   "clusters: {a: {hypervisor: {provider: ec2, ec2: {}}, nodes: [{name: n, address: 192.0.2.1, vm: i-0123456789abcdef0}]}}",
		"half an ec2 key":      "clusters: {a: {hypervisor: {provider: ec2, ec2: {region: eu-central-1, access_key: {env: A}}}, nodes: [{name: n, address: 192.0.2.1, vm: i-0123456789abcdef0}]}}",
		"availability zone":    "clusters: {a: {hypervisor: {provider: ec2, ec2: {region: eu-central-1a}}, nodes: [{name: n, address: 192.0.2.1, vm: i-0123456789abcdef0}]}}",
		"key of an ec2 tag":    "clusters: {a: {hypervisor: {provider: ec2, ec2: {region: eu-central-1, tags: {'a,b': c}}}, nodes: [{name: n, address: 192.0.2.1, vm: i-0123456789abcdef0}]}}",
		"openstack's secret":   "clusters: {a: {hypervisor: {provider: openstack, openstack: {auth_url: 'https://k/v3', application_credential: {id: x}}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"keystone's user":      "clusters: {a: {hypervisor: {provider: openstack, openstack: {auth_url: 'https://u:p@k/v3', application_credential: {id: x, secret: {env: S}}}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"vsphere's password":   "clusters: {a: {hypervisor: {provider: vsphere, vsphere: {url: 'https://v', user: u}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"vcenter's path":       "clusters: {a: {hypervisor: {provider: vsphere, vsphere: {url: 'https://v/ui', user: u, password: {env: P}}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"free space":           "clusters: {a: {hypervisor: {provider: vsphere, vsphere: {url: 'https://v', user: u, password: {env: P}, free_percent: 101}}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"relative folder":      "clusters: {a: {platform: als, export: {folder: tmp}, nodes: [{name: n, address: 192.0.2.1, roles: [primary]}]}}",
		"proxy with password":  "clusters: {a: {proxy: {http: 'http://u:p@proxy:1'}, nodes: [{name: n, address: 192.0.2.1}]}}",
	} {
		t.Run(name, func(t *testing.T) {
			assert.Error(t, s.Validate(instance(t, []byte(text))))
			_, err := Parse("inventory.yaml", []byte(text))
			assert.Error(t, err, "the schema may not be stricter than the program")
		})
	}
}
