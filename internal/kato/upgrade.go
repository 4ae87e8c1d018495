package kato

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// UpgradeDialect is which options `kato node upgrade` has: those of ALS 1.0 and of Stackato differ from those of ALS 1.1 to 1.3 (kato.md §5).
type UpgradeDialect struct {
	// Rollback of a node to the version before (1.0); Cache is --cache-ip with --download-only, and Offline takes all from there (1.1 to 1.3).
	Rollback, Cache, Offline bool
	// UpdateKato, Resume, SkipConfirmation and Version are in all references; a kato that lacks one is not asked for it.
	UpdateKato, Resume, SkipConfirmation, Version bool
}

// ParseUpgradeHelp reads the usage text of `kato node upgrade --help`. An error is one line: the text is not that, or has no --node, without which one node cannot be upgraded alone.
func ParseUpgradeHelp(out []byte) (UpgradeDialect, error) {
	words := optionWords(out)
	has := func(option string) bool { return words[option] }
	if !has("--node") {
		return UpgradeDialect{}, fmt.Errorf("kato node upgrade has no --node: %s", clip(strings.TrimSpace(Clean(out))))
	}
	return UpgradeDialect{Rollback: has("--rollback"), Cache: has("--cache-ip") && has("--download-only"), Offline: has("--offline"), UpdateKato: has("--update-kato"), Resume: has("--resume"),
		SkipConfirmation: has("--skip-confirmation"), Version: has("--version")}, nil
}

// UpgradeHelp prints the usage of `kato node upgrade`; see ParseUpgradeHelp.
func (c CLI) UpgradeHelp() []string { return []string{c.Path, "node", "upgrade", "--help"} }

// Upgrade is one `kato node upgrade` of one node (kato.md §5).
type Upgrade struct {
	// Node is its id, its IP address.
	Node string
	// Version that it gets.
	Version string
	// CacheIP is the id of the node that has the packages, "" for none.
	CacheIP string
	// Offline takes nothing from elsewhere.
	Offline bool
	// Resume goes on with one that was interrupted; only where kato has told to (kato.md §5).
	Resume bool
}

func (c CLI) nodeUpgrade(d UpgradeDialect, args ...string) []string {
	argv := append([]string{c.Path, "node", "upgrade"}, args...)
	if d.SkipConfirmation {
		argv = append(argv, "--skip-confirmation")
	}
	return argv
}

func (d UpgradeDialect) version(version string) []string {
	if !d.Version {
		return nil
	}
	return []string{"--version", version}
}

// UpgradeNode upgrades one node: only long options, as -v is the version there and something else elsewhere (kato.md §5). It is to be run on the Core; its exit code 0 is no proof (§5, §0.4).
func (c CLI) UpgradeNode(d UpgradeDialect, u Upgrade) []string {
	args := append([]string{"--node", u.Node}, d.version(u.Version)...)
	if d.Cache && u.CacheIP != "" {
		args = append(args, "--cache-ip", u.CacheIP)
	}
	if d.Offline && u.Offline {
		args = append(args, "--offline")
	}
	if u.Resume {
		args = append(args, "--resume")
	}
	return c.nodeUpgrade(d, args...)
}

// UpdateKato has kato bring itself up to date on the local node, before an upgrade.
func (c CLI) UpdateKato(d UpgradeDialect) []string { return c.nodeUpgrade(d, "--update-kato") }

// DownloadRelease fetches the packages of a version to a node, while the cluster is live (ALS 1.1 to 1.3).
func (c CLI) DownloadRelease(d UpgradeDialect, version, cacheIP string) []string {
	return c.nodeUpgrade(d, append([]string{"--download-only", "--cache-ip", cacheIP}, d.version(version)...)...)
}

// RollBackNode brings a node back to the version before (ALS 1.0).
func (c CLI) RollBackNode(d UpgradeDialect, node string) []string {
	return c.nodeUpgrade(d, "--rollback", "--node", node)
}

// NodeVersion prints the version of a node, as the local one knows it (kato.md §3.3).
func (c CLI) NodeVersion(node string) []string { return []string{c.Path, "node", "version", node} }

// aVersion is one in a text: numbers with dots, and what stands behind a dash, plus or tilde.
var aVersion = regexp.MustCompile(`(?:^|[^0-9A-Za-z.])v?([0-9]+(?:\.[0-9]+)+(?:[-+~][0-9A-Za-z.]+)*)`)

// onlyVersion is one alone.
var onlyVersion = regexp.MustCompile(`^[0-9]+(?:\.[0-9]+)+(?:[-+~][0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*)*$`)

// ParseVersion finds the version in what `kato version` prints, "" for none; the exact text is not known (kato.md §3.8).
func ParseVersion(out []byte) string {
	all := aVersion.FindAllStringSubmatch(Clean(out), -1)
	for _, m := range all {
		if v := strings.TrimRight(m[1], "."); !isAddress(v) {
			return v
		}
	}
	if len(all) > 0 {
		return strings.TrimRight(all[0][1], ".")
	}
	return ""
}

// isAddress: a node's, which may stand before its version.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// CheckVersion says what is wrong with a version that somebody wrote.
func CheckVersion(version string) error {
	if len(version) > 40 || !onlyVersion.MatchString(version) {
		return fmt.Errorf("version %q: write numbers with dots, such as 1.3.0", clip(version))
	}
	return nil
}

// SameVersion reports whether a node that tells a version has the one that is wanted: a build number behind it makes no difference, nor do zeros that are missing at its end.
func SameVersion(has, wanted string) bool {
	if wanted == "" {
		return false
	}
	_, behind := numbers(wanted)
	rest, ok := strings.CutPrefix(has, wanted)
	if ok && behind != "" {
		return rest == "" || strings.ContainsAny(rest[:1], "-+~.")
	}
	_, after := numbers(has)
	return CompareVersions(has, wanted) == 0 && has != "" && (behind == "" || behind == after)
}

// CompareVersions is negative where the numbers of a are lower than those of b, 0 where they are the same, and positive otherwise; what stands behind the numbers is not compared.
func CompareVersions(a, b string) int {
	x, _ := numbers(a)
	y, _ := numbers(b)
	for i := range max(len(x), len(y)) {
		var p, q int
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if p != q {
			return p - q
		}
	}
	return 0
}

// numbers of a version, and what stands behind them.
func numbers(version string) (n []int, behind string) {
	end := strings.IndexAny(version, "-+~")
	if end < 0 {
		end = len(version)
	}
	for _, part := range strings.Split(version[:end], ".") {
		v, err := strconv.Atoi(part)
		if err != nil {
			return n, version
		}
		n = append(n, v)
	}
	return n, version[end:]
}
