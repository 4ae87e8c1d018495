package inventory

import (
	"time"
)

// Platform says which procedures and gates a cluster knows.
type Platform string

const (
	// PlatformALS is an HP Helion ALS or Stackato cluster, administered with kato.
	PlatformALS Platform = "als"
	// PlatformPlain is any cluster of Debian or Ubuntu hosts.
	PlatformPlain Platform = "plain"
)

// ReservedNodeName may not name a node: questions that concern the whole cluster are asked under it.
const ReservedNodeName = "cluster"

// File is a whole inventory file.
type File struct {
	// Clusters by name. Names are DNS labels: [a-z0-9] and inner '-', at most 63 bytes.
	Clusters map[string]*Cluster `yaml:"clusters" json:"clusters"`

	path   string // as it was named to Load or Parse; problems begin with it
	folder string // relative paths inside the file are relative to it
	// positions of the values in the file, by field path, for problems that show only on the worker (CheckFiles).
	positions map[string]position
}

// Cluster is one cluster of VMs and how katoflow treats it. Every field except Nodes has a default.
type Cluster struct {
	// Name is the key under `clusters`; not written in the file again.
	Name string `yaml:"-" json:"-"`
	// Platform is "als" or "plain" (default "plain").
	Platform Platform `yaml:"platform,omitempty" json:"platform,omitempty"`
	// SSH is the default way to reach the nodes; a node may override parts of it.
	SSH SSH `yaml:"ssh,omitempty" json:"ssh,omitzero"`
	// Nodes in file order. Names and addresses are unique within the cluster.
	Nodes []*Node `yaml:"nodes" json:"nodes"`
	// Kato settings (als only).
	Kato Kato `yaml:"kato,omitempty" json:"kato,omitzero"`
	// Proxy for apt and unattended-upgrades on the nodes.
	Proxy Proxy `yaml:"proxy,omitempty" json:"proxy,omitzero"`
	// Gates that must hold before, between and after nodes.
	Gates Gates `yaml:"gates,omitempty" json:"gates,omitzero"`
	// Timeouts for slow or dead nodes.
	Timeouts Timeouts `yaml:"timeouts,omitempty" json:"timeouts,omitzero"`
	// Notify sends a message when an operation parks, fails or is done.
	Notify Notify `yaml:"notify,omitempty" json:"notify,omitzero"`
	// S3 is where archives and reports go; left out for none.
	S3 *S3 `yaml:"s3,omitempty" json:"s3,omitempty"`
	// Controller is the Cloud Controller's API (als only); left out, it is not asked, and manifests do not say what an archive holds.
	Controller *Controller `yaml:"controller,omitempty" json:"controller,omitempty"`
	// Export says where and how long exports run (als only). Left out, its defaults hold.
	Export *Export `yaml:"export,omitempty" json:"export,omitempty"`
	// Images are the names of the docker base image of app containers (als only). Left out, their defaults hold.
	Images *Images `yaml:"images,omitempty" json:"images,omitempty"`
	// Maintenance says what happens to maintenance mode when nobody is there to put it back (als only).
	Maintenance *Maintenance `yaml:"maintenance,omitempty" json:"maintenance,omitempty"`
	// Scratch says that the content of the cluster may be thrown away at any time, so that archives of other clusters are rehearsed in it (als only).
	Scratch bool `yaml:"scratch,omitempty" json:"scratch,omitempty"`
	// Hypervisor is what the nodes' VMs run on, for snapshots of all of them; left out, there are none.
	Hypervisor *Hypervisor `yaml:"hypervisor,omitempty" json:"hypervisor,omitempty"`
}

// Node is one VM of a cluster.
type Node struct {
	// Name is a DNS name: labels of [a-z0-9-] joined by dots; not "cluster".
	Name string `yaml:"name" json:"name"`
	// Address is an IP address or a host name, without a port.
	Address string `yaml:"address" json:"address"`
	// Roles are kato's role names (als; required there, kato.md §2) or free labels of the same form (plain).
	// On als loading puts them into kato's start order and adds base, which every node has.
	Roles []string `yaml:"roles,omitempty" json:"roles,omitempty"`
	// Core marks the Core node of an ALS cluster. Default: the one node with the role primary.
	Core bool `yaml:"core,omitempty" json:"core,omitempty"`
	// SSH overrides single fields of the cluster's ssh section.
	SSH SSH `yaml:"ssh,omitempty" json:"ssh,omitzero"`
	// GateCommands replace the cluster's own gate commands for this node when set.
	GateCommands []string `yaml:"gate_commands,omitempty" json:"gate_commands,omitempty"`
	// VM is what the hypervisor calls the node's VM (default: the node's name).
	VM string `yaml:"vm,omitempty" json:"vm,omitempty"`
	// VMHost is the host of the hypervisor section that has the VM (default: the only one).
	VMHost string `yaml:"vm_host,omitempty" json:"vm_host,omitempty"`
	// Freeze are the node's mount points that `snapshot create --quiesce frozen` freezes, in place of those of the hypervisor section.
	Freeze []string `yaml:"freeze,omitempty" json:"freeze,omitempty"`
}

// SSH is how to log in to a node.
type SSH struct {
	// User to log in as (default "stackato" on als, "root" on plain).
	User string `yaml:"user,omitempty" json:"user,omitempty"`
	// Port, 1-65535 (default 22).
	Port int `yaml:"port,omitempty" json:"port,omitempty"`
	// KeyFiles are private keys, tried in order. Relative to the inventory file; "~/" is the worker's home.
	KeyFiles []string `yaml:"key_files,omitempty" json:"key_files,omitempty"`
	// Passphrase of the key files, by reference.
	Passphrase *Secret `yaml:"passphrase,omitempty" json:"passphrase,omitempty"`
	// Agent uses the agent at the worker's SSH_AUTH_SOCK (default: only when there are no key_files). With neither key_files nor an
	// agent, the worker's own ~/.ssh/id_ed25519, id_ecdsa and id_rsa are tried.
	Agent *bool `yaml:"agent,omitempty" json:"agent,omitempty"`
	// KnownHosts files (default "~/.ssh/known_hosts"). Hashed entries and @cert-authority lines are understood.
	KnownHosts []string `yaml:"known_hosts,omitempty" json:"known_hosts,omitempty"`
	// Bastion is "[user@]host[:port]", a jump host (default: the node's user, port 22); it uses the same keys and known_hosts.
	Bastion string `yaml:"bastion,omitempty" json:"bastion,omitempty"`
	// ConnectTimeout for TCP and handshake (default 10s).
	ConnectTimeout Duration `yaml:"connect_timeout,omitempty" json:"connect_timeout,omitempty"`
	// MaxSessions at once on one node's connection (default 8; OpenSSH's own limit is 10).
	MaxSessions int `yaml:"max_sessions,omitempty" json:"max_sessions,omitempty"`
}

// Kato says where and how kato runs.
type Kato struct {
	// Path of the kato binary (default "/home/stackato/bin/kato", kato.md §1).
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
	// Timeout of one short kato call; kato may hang (kato.md §0.5-7). Default 2m.
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	// Services, Droplets and Containers are where kato knows its data (default "/var/stackato/services", "/home/stackato/stackato/data" and
	// "/var/lib/docker", kato.md §3.7): what kato relocate makes links of.
	Services   string `yaml:"services,omitempty" json:"services,omitempty"`
	Droplets   string `yaml:"droplets,omitempty" json:"droplets,omitempty"`
	Containers string `yaml:"containers,omitempty" json:"containers,omitempty"`
	// Releases are the addresses that kato fetches a release upgrade from, each as http(s)://host[:port]; they are tried beforehand (default
	// https://upgrade.helion.com and https://pkg.helion.com, kato.md §5).
	Releases []string `yaml:"releases,omitempty" json:"releases,omitempty"`
}

// Proxy is exported to package commands on the nodes as http_proxy, https_proxy and no_proxy.
type Proxy struct {
	// HTTP is the proxy for http addresses, as http://host:port. No user or password may stand in it.
	HTTP string `yaml:"http,omitempty" json:"http,omitempty"`
	// HTTPS is the proxy for https addresses, as http://host:port. No user or password may stand in it.
	HTTPS string `yaml:"https,omitempty" json:"https,omitempty"`
	// NoProxy lists what is reached directly: hosts, domains and networks, separated by commas.
	NoProxy string `yaml:"no_proxy,omitempty" json:"no_proxy,omitempty"`
}

// Gates are the checks a node must pass N times in a row.
type Gates struct {
	// Times in a row (default 3).
	Times int `yaml:"times,omitempty" json:"times,omitempty"`
	// Interval between two rounds (default 5s).
	Interval Duration `yaml:"interval,omitempty" json:"interval,omitempty"`
	// Timeout until the gates must have held (default 10m).
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	// Commands are the site's own checks: shell lines run as the login user on each node; exit 0 holds.
	Commands []string `yaml:"commands,omitempty" json:"commands,omitempty"`
}

// Timeouts bound how long katoflow waits before it asks.
type Timeouts struct {
	// UnreachableAfter: a node that cannot be reached this long in a step is reported (default 10m).
	UnreachableAfter Duration `yaml:"unreachable_after,omitempty" json:"unreachable_after,omitempty"`
	// Boot: a node must be back this long after its reboot began (default 15m).
	Boot Duration `yaml:"boot,omitempty" json:"boot,omitempty"`
	// Upgrade: ceiling of one package upgrade job (default 3h).
	Upgrade Duration `yaml:"upgrade,omitempty" json:"upgrade,omitempty"`
	// AptLock: how long another process may hold the apt locks (default 30m).
	AptLock Duration `yaml:"apt_lock,omitempty" json:"apt_lock,omitempty"`
}

// Notify is sent by the worker; either or both of its fields.
type Notify struct {
	// Webhook URL that gets a JSON POST, by reference, because such URLs often carry a token.
	Webhook *Secret `yaml:"webhook,omitempty" json:"webhook,omitempty"`
	// Command with arguments, run on the worker's machine; the same JSON comes on its standard input.
	Command []string `yaml:"command,omitempty" json:"command,omitempty"`
	// On limits the events: parked, failed, done (default all three).
	On []string `yaml:"on,omitempty" json:"on,omitempty"`
}

// S3 is a bucket with its credentials by reference.
type S3 struct {
	// Endpoint is the URL of an S3 service other than Amazon's.
	Endpoint string `yaml:"endpoint,omitempty" json:"endpoint,omitempty"`
	// Region (default "us-east-1").
	Region string `yaml:"region,omitempty" json:"region,omitempty"`
	// Bucket must exist.
	Bucket string `yaml:"bucket" json:"bucket"`
	// Prefix is put before every key, as a folder.
	Prefix string `yaml:"prefix,omitempty" json:"prefix,omitempty"`
	// AccessKey and SecretKey are given together; with neither, the worker's own AWS credentials are used.
	AccessKey *Secret `yaml:"access_key,omitempty" json:"access_key,omitempty"`
	// SecretKey belongs to AccessKey.
	SecretKey *Secret `yaml:"secret_key,omitempty" json:"secret_key,omitempty"`
	// SessionToken belongs to AccessKey and SecretKey when they are temporary.
	SessionToken *Secret `yaml:"session_token,omitempty" json:"session_token,omitempty"`
	// Identity opens archives that were encrypted when they were made: an age key file, or an SSH private key without a passphrase, by reference. Imports and rehearsals use it on the
	// worker; no node gets it.
	Identity *Secret `yaml:"identity,omitempty" json:"identity,omitempty"`
	// PathStyle writes the bucket into the path instead of the host name, as many own S3 services need.
	PathStyle bool `yaml:"path_style,omitempty" json:"path_style,omitempty"`
	// CAFile holds the certificates that the endpoint is verified against. Relative to the inventory file.
	CAFile string `yaml:"ca_file,omitempty" json:"ca_file,omitempty"`
	// Encryption by the S3 service: "AES256" or "aws:kms". Left out, the bucket's own setting holds.
	Encryption string `yaml:"encryption,omitempty" json:"encryption,omitempty"`
	// KMSKey is the key's id, ARN or alias for encryption: aws:kms; left out for the bucket's own.
	KMSKey string `yaml:"kms_key,omitempty" json:"kms_key,omitempty"`
	// StorageClass of the archives themselves, such as "STANDARD_IA". One whose objects must be restored before they can be read
	// (GLACIER, DEEP_ARCHIVE) can be neither verified nor downloaded.
	StorageClass string `yaml:"storage_class,omitempty" json:"storage_class,omitempty"`
	// LockMode is "GOVERNANCE" or "COMPLIANCE"; the bucket must have object lock switched on. Nobody can undo COMPLIANCE.
	LockMode string `yaml:"lock_mode,omitempty" json:"lock_mode,omitempty"`
	// LockFor is how long nothing can delete an archive, from the begin of its upload; together with LockMode.
	LockFor Retention `yaml:"lock_for,omitempty" json:"lock_for,omitempty"`
}

// Controller is the Cloud Controller's API and an admin's account on it.
type Controller struct {
	// URL of the API, such as https://api.example.org. With http the password is not protected on its way.
	URL string `yaml:"url" json:"url"`
	// User is the name or e-mail address of an admin, who sees all organizations.
	User string `yaml:"user" json:"user"`
	// Password of the user, by reference.
	Password *Secret `yaml:"password" json:"password"`
	// CAFile holds the certificates that the API is verified against. Relative to the inventory file.
	CAFile string `yaml:"ca_file,omitempty" json:"ca_file,omitempty"`
	// Timeout of one request (default 30s).
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
}

// Export says where and how long `kato data export` runs.
type Export struct {
	// Node that exports (default: the one with the role filesystem, kato.md §3.2).
	Node string `yaml:"node,omitempty" json:"node,omitempty"`
	// Folder on that node for staged archives, as full path (default: katoflow's own folder in the login user's home).
	Folder string `yaml:"folder,omitempty" json:"folder,omitempty"`
	// Timeout: ceiling of one export (default 12h).
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	// DataFolders are measured on every node to estimate the size of an archive (default "/var/stackato/services" and
	// "/home/stackato/stackato/data", kato.md §3.7).
	DataFolders []string `yaml:"data_folders,omitempty" json:"data_folders,omitempty"`
}

// Images are the names of the docker base image that app containers are made from (kato.md §7).
type Images struct {
	// Repository is its name without a tag (default "stackato/stack-alsek"; ALS 1.3 has "helion/stack-alsek").
	Repository string `yaml:"repository,omitempty" json:"repository,omitempty"`
	// BaseTag is the tag that upgrades are built on (default "kato-patched").
	BaseTag string `yaml:"base_tag,omitempty" json:"base_tag,omitempty"`
	// Registry is HOST[:PORT]/NAME: there the image is pushed to by the first DEA, and fetched from by the others. Left out, each DEA builds its own.
	Registry string `yaml:"registry,omitempty" json:"registry,omitempty"`
}

// Maintenance is about the read-only mode of the Cloud Controller.
type Maintenance struct {
	// DeadMan: a job on the Core puts maintenance mode back as it was found when an operation has shown no sign of life for so long and nothing of it runs
	// on any node. At least 1m; left out, there is none.
	DeadMan Duration `yaml:"dead_man,omitempty" json:"dead_man,omitempty"`
}

// Hypervisor is what the VMs of a cluster run on.
type Hypervisor struct {
	// Provider that takes the snapshots: "libvirt", QEMU domains by virsh on their host; "ec2", instances of Amazon EC2; "openstack", servers of an OpenStack cloud; "vsphere", VMs of a vCenter or an
	// ESXi host; or "command", the site's own commands.
	Provider string `yaml:"provider" json:"provider"`
	// Hosts that are logged in to: those that have the domains, or where the site's own commands run.
	Hosts []*HypervisorHost `yaml:"hosts,omitempty" json:"hosts,omitempty"`
	// Command are the site's own, with provider: command.
	Command *HypervisorCommands `yaml:"command,omitempty" json:"command,omitempty"`
	// EC2, with provider: ec2.
	EC2 *HypervisorEC2 `yaml:"ec2,omitempty" json:"ec2,omitempty"`
	// Libvirt, with provider: libvirt.
	Libvirt HypervisorLibvirt `yaml:"libvirt,omitempty" json:"libvirt,omitzero"`
	// OpenStack, with provider: openstack.
	OpenStack *HypervisorOpenStack `yaml:"openstack,omitempty" json:"openstack,omitempty"`
	// VSphere, with provider: vsphere.
	VSphere *HypervisorVSphere `yaml:"vsphere,omitempty" json:"vsphere,omitempty"`
	// StopWithin is how long a VM may take to shut down (default 10m).
	StopWithin Duration `yaml:"stop_within,omitempty" json:"stop_within,omitempty"`
	// Freeze is what `snapshot create --quiesce frozen` freezes on the nodes.
	Freeze *HypervisorFreeze `yaml:"freeze,omitempty" json:"freeze,omitempty"`
}

// HypervisorFreeze says which file systems are frozen while snapshots are taken, by the program katoflow-freeze on the nodes.
type HypervisorFreeze struct {
	// Mounts are mount points of every node that does not name its own, frozen in this order and thawed in reverse order.
	Mounts []string `yaml:"mounts,omitempty" json:"mounts,omitempty"`
	// Deadline after which a node thaws by itself, whatever happens (default 1m, 5s to 5m). Freezing may take half of it.
	Deadline Duration `yaml:"deadline,omitempty" json:"deadline,omitempty"`
}

// HypervisorHost is a host that has VMs, reached over SSH.
type HypervisorHost struct {
	// Name is what nodes' vm_host refers to.
	Name string `yaml:"name" json:"name"`
	// Address is an IP address or a host name, without a port.
	Address string `yaml:"address" json:"address"`
	// SSH overrides single fields of the cluster's ssh section.
	SSH SSH `yaml:"ssh,omitempty" json:"ssh,omitzero"`
}

// HypervisorCommands are the site's own, with their arguments. In them {vm}, {node} and {name} stand for the VM, the node and the snapshot's name. docs/snapshots.md says what each
// has to print.
type HypervisorCommands struct {
	// Snapshot takes one, and ends when its moment is over.
	Snapshot []string `yaml:"snapshot" json:"snapshot"`
	// Find tells the state of one.
	Find []string `yaml:"find" json:"find"`
	// List tells the names of all of a VM.
	List []string `yaml:"list" json:"list"`
	// Delete removes one.
	Delete []string `yaml:"delete" json:"delete"`
	// Rollback puts the disks of a VM that is off back.
	Rollback []string `yaml:"rollback,omitempty" json:"rollback,omitempty"`
	// Power tells whether a VM is on or off; Start, Stop and Kill switch it.
	Power []string `yaml:"power,omitempty" json:"power,omitempty"`
	Start []string `yaml:"start,omitempty" json:"start,omitempty"`
	Stop  []string `yaml:"stop,omitempty" json:"stop,omitempty"`
	Kill  []string `yaml:"kill,omitempty" json:"kill,omitempty"`
	// Check tells what stands in the way of a snapshot, one line each; none is well.
	Check []string `yaml:"check,omitempty" json:"check,omitempty"`
}

// HypervisorLibvirt is how virsh reaches the domains.
type HypervisorLibvirt struct {
	// URI that virsh connects to on each host (default qemu:///system).
	URI string `yaml:"uri,omitempty" json:"uri,omitempty"`
}

// HypervisorEC2 is a region of Amazon EC2 and an account on it.
type HypervisorEC2 struct {
	// Region that has the instances, such as eu-central-1.
	Region string `yaml:"region" json:"region"`
	// Endpoint is the URL of an EC2 API other than the region's own.
	Endpoint string `yaml:"endpoint,omitempty" json:"endpoint,omitempty"`
	// AccessKey and SecretKey are given together; with neither, the worker's own AWS credentials are used.
	AccessKey *Secret `yaml:"access_key,omitempty" json:"access_key,omitempty"`
	// SecretKey belongs to AccessKey.
	SecretKey *Secret `yaml:"secret_key,omitempty" json:"secret_key,omitempty"`
	// SessionToken belongs to AccessKey and SecretKey when they are temporary.
	SessionToken *Secret `yaml:"session_token,omitempty" json:"session_token,omitempty"`
	// CAFile holds the certificates that the endpoint is verified against. Relative to the inventory file.
	CAFile string `yaml:"ca_file,omitempty" json:"ca_file,omitempty"`
	// Tags are put on every snapshot and volume that is made, at most 20.
	Tags map[string]string `yaml:"tags,omitempty" json:"tags,omitempty"`
}

// HypervisorOpenStack is an OpenStack cloud and an account on it: user, password and project, or an application credential.
type HypervisorOpenStack struct {
	// AuthURL of Keystone, such as https://keystone.example.org:5000/v3. With http the password is not protected on its way.
	AuthURL string `yaml:"auth_url" json:"auth_url"`
	// Region of the cloud; left out where there is one only.
	Region string `yaml:"region,omitempty" json:"region,omitempty"`
	// User is the account's name.
	User string `yaml:"user,omitempty" json:"user,omitempty"`
	// UserDomain is the domain of the user (default "Default").
	UserDomain string `yaml:"user_domain,omitempty" json:"user_domain,omitempty"`
	// Password of the user, by reference.
	Password *Secret `yaml:"password,omitempty" json:"password,omitempty"`
	// Project that has the servers.
	Project string `yaml:"project,omitempty" json:"project,omitempty"`
	// ProjectDomain is the domain of the project (default that of the user).
	ProjectDomain string `yaml:"project_domain,omitempty" json:"project_domain,omitempty"`
	// ApplicationCredential is used in place of a user; it has its project.
	ApplicationCredential *OpenStackCredential `yaml:"application_credential,omitempty" json:"application_credential,omitempty"`
	// CAFile holds the certificates that the cloud is verified against. Relative to the inventory file.
	CAFile string `yaml:"ca_file,omitempty" json:"ca_file,omitempty"`
}

// HypervisorVSphere is a vCenter, or an ESXi host, and an account on it.
type HypervisorVSphere struct {
	// URL of it, such as https://vcenter.example.org, with or without /sdk. With http the password is not protected on its way.
	URL string `yaml:"url" json:"url"`
	// User is the account's name, such as katoflow@vsphere.local.
	User string `yaml:"user" json:"user"`
	// Password of the user, by reference.
	Password *Secret `yaml:"password" json:"password"`
	// CAFile holds the certificates that the server is verified against. Relative to the inventory file.
	CAFile string `yaml:"ca_file,omitempty" json:"ca_file,omitempty"`
	// Quiesce has VMware Tools quiesce the file systems of guests that run before each snapshot.
	Quiesce bool `yaml:"quiesce,omitempty" json:"quiesce,omitempty"`
	// FreePercent of the size of a VM's disks must be free on their datastores before a snapshot (default 10, 1 to 100): what is written after it needs space.
	FreePercent int `yaml:"free_percent,omitempty" json:"free_percent,omitempty"`
}

// OpenStackCredential is an application credential of OpenStack.
type OpenStackCredential struct {
	// ID of the credential, not its name.
	ID string `yaml:"id" json:"id"`
	// Secret of the credential, by reference.
	Secret *Secret `yaml:"secret" json:"secret"`
}

// Secret is a reference, exactly one of its fields set; a value in clear text is refused.
type Secret struct {
	// File holding the value (a trailing newline is dropped); must not be readable by group or others.
	File string `yaml:"file,omitempty" json:"file,omitempty"`
	// Env is the name of an environment variable of the worker.
	Env string `yaml:"env,omitempty" json:"env,omitempty"`
}

// Duration is written with a unit: "30s", "10m", "3h".
type Duration time.Duration

// Retention is a Duration that may be longer and may be written in days: "12h", "90d".
type Retention time.Duration
