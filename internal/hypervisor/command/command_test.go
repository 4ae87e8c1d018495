package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/hypervisor/overssh"
	"github.com/katoflow/katoflow/internal/remote"
)

// tool is a site's own command: VMs and snapshots are folders. Arguments: the folder of all VMs, the verb, the VM, the snapshot's name.
const tool = `
root=$1 verb=$2 vm=$1/$3 name=$4
if [ -e "$root/away" ]; then echo 'the storage is away' >&2; exit 1; fi
if [ ! -d "$vm" ]; then echo "there is no VM $3" >&2; exit 3; fi
snap=$vm/snapshots/$name
case $verb in
take)
	if [ -e "$vm/lose" ]; then rm "$vm/lose"; lose=1; fi
	if mkdir "$snap.new" 2>/dev/null && [ ! -d "$snap" ]; then
		cp "$vm/disk" "$snap.new/disk"
		date -u +%Y-%m-%dT%H:%M:%SZ >"$snap.new/created"
		echo "$3-$name-$(date +%s%N)" >"$snap.new/id"
		mv "$snap.new" "$snap"
		echo x >>"$root/changes"
	else
		rm -rf "$snap.new"
	fi
	if [ -n "$lose" ]; then kill -9 "$PPID" $(ps -o ppid= -p "$PPID"); sleep 5; fi
	echo "id=$(cat "$snap/id")"
	;;
find)
	[ -d "$snap" ] || exit 3
	state=ready
	[ ! -e "$vm/slow" ] || state=pending
	echo "$state id=$(cat "$snap/id") created=$(cat "$snap/created") size=$(wc -c <"$snap/disk")"
	;;
list) ls -1tr "$vm/snapshots" ;;
delete)
	if [ -d "$snap" ]; then rm -rf "$snap"; echo x >>"$root/changes"; fi
	;;
rollback) cp "$snap/disk" "$vm/disk" ;;
power) cat "$vm/power" ;;
start) echo on >"$vm/power" ;;
stop | kill) echo off >"$vm/power" ;;
check)
	[ ! -e "$vm/full" ] || echo 'no space for a snapshot: free some'
	[ ! -e "$vm/busy" ] || echo 'a snapshot is under way: wait for its end'
	;;
esac
`

func TestProvider_KeepsWhatEveryProviderPromises(t *testing.T) {
	root := t.TempDir()
	script := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"+tool), 0o700))
	call := func(verb string) []string { return []string{script, root, verb, "{vm}", "{name}"} }
	rig := hypervisortest.Rig{
		New: func(*testing.T) hypervisor.Provider {
			return &Provider{Hosts: overssh.Hosts{Runner: hypervisortest.Local{}, ByName: map[string]remote.Host{"tools": {Name: "tools"}}, Timeout: 20 * time.Second},
				Commands: Commands{Snapshot: call("take"), Find: call("find"), List: call("list"), Delete: call("delete"), Rollback: call("rollback"), Power: call("power"),
					Start: call("start"), Stop: call("stop"), Kill: call("kill"), Check: call("check")}}
		},
		Write: func(t *testing.T, vm hypervisor.VM, text string) {
			require.NoError(t, os.WriteFile(filepath.Join(root, vm.ID, "disk"), []byte(text), 0o600))
		},
		Read: func(t *testing.T, vm hypervisor.VM) string {
			b, err := os.ReadFile(filepath.Join(root, vm.ID, "disk"))
			require.NoError(t, err)
			return string(b)
		},
		Changes: func(*testing.T) int {
			b, _ := os.ReadFile(filepath.Join(root, "changes"))
			return strings.Count(string(b), "x")
		},
		Missing: &hypervisor.VM{Node: "gone", ID: "vm gone", Host: "tools"},
	}
	for i := range 8 {
		vm := hypervisor.VM{Node: fmt.Sprintf("node-%d", i), ID: fmt.Sprintf("it's vm %d", i), Host: "tools"} // quoted, or it fails
		rig.VMs = append(rig.VMs, vm)
		require.NoError(t, os.MkdirAll(filepath.Join(root, vm.ID, "snapshots"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(root, vm.ID, "disk"), []byte("new"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(root, vm.ID, "power"), []byte("on\n"), 0o600))
	}
	flag := func(name string, of func(hypervisor.VM) string) hypervisortest.Fault {
		return func(t *testing.T, vm hypervisor.VM) func() {
			file := filepath.Join(root, of(vm), name)
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			return func() { _ = os.Remove(file) }
		}
	}
	ofVM := func(vm hypervisor.VM) string { return vm.ID }
	rig.Full, rig.Busy, rig.Slow = flag("full", ofVM), flag("busy", ofVM), flag("slow", ofVM)
	rig.LostAnswer = flag("lose", ofVM)
	hypervisortest.Run(t, rig)
}
