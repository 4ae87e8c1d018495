package libvirt

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"
)

// domain is what libvirt's description of a VM says of its disks.
type domain struct {
	Name     string `xml:"name"`
	UUID     string `xml:"uuid"`
	Firmware struct {
		Loader struct {
			Type string `xml:"type,attr"`
		} `xml:"loader"`
	} `xml:"os"`
	Disks []disk `xml:"devices>disk"`
}

type disk struct {
	// Device is disk, lun, cdrom or floppy; left out, it is a disk.
	Device string `xml:"device,attr"`
	Driver struct {
		Type string `xml:"type,attr"`
	} `xml:"driver"`
	Source struct {
		File string `xml:"file,attr"`
		Dev  string `xml:"dev,attr"`
	} `xml:"source"`
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	Alias struct {
		Name string `xml:"name,attr"`
	} `xml:"alias"`
	ReadOnly *struct{} `xml:"readonly"`
}

func readDomain(out []byte) (domain, error) {
	var d domain
	if err := xml.Unmarshal(out, &d); err != nil {
		return d, fmt.Errorf("virsh dumpxml printed no description of a domain: %w", err)
	}
	return d, nil
}

// written are the disks that the guest can write to: those that a snapshot is of.
func (d domain) written() []disk {
	var out []disk
	for _, k := range d.Disks {
		if k.ReadOnly == nil && k.Device != "cdrom" && k.Device != "floppy" {
			out = append(out, k)
		}
	}
	return out
}

// path is where a disk's image is, "" for one that is no file and no device.
func (k disk) path() string {
	if k.Source.File != "" {
		return k.Source.File
	}
	return k.Source.Dev
}

// hindrances says why no snapshot of the VM can be taken, one line each.
func (d domain) hindrances() []string {
	var out []string
	disks := d.written()
	if len(disks) == 0 {
		out = append(out, "it has no disk that it can write to")
	}
	for _, k := range disks {
		switch {
		case k.Driver.Type != "qcow2":
			out = append(out, fmt.Sprintf("its disk %s is %s: snapshots inside the image need qcow2 (qemu-img convert)", k.Target.Dev, orNothing(k.Driver.Type)))
		case k.Device == "lun" || k.path() == "":
			out = append(out, fmt.Sprintf("its disk %s is neither a file nor a block device: a snapshot needs one", k.Target.Dev))
		}
	}
	if d.Firmware.Loader.Type == "pflash" {
		out = append(out, "it boots with UEFI, whose settings (NVRAM) libvirt does not keep in such snapshots: use the provider command with the site's own")
	}
	return out
}

func orNothing(s string) string {
	if s == "" {
		return "of no format that libvirt names"
	}
	return s
}

// blocks is what QEMU says of a VM that runs: query-block.
type blocks struct {
	Return []struct {
		Device   string `json:"device"`
		QDev     string `json:"qdev"`
		Inserted *struct {
			NodeName string `json:"node-name"`
			Image    struct {
				Snapshots []imageSnapshot `json:"snapshots"`
			} `json:"image"`
		} `json:"inserted"`
	} `json:"return"`
	Error *qmpError `json:"error"`
}

type imageSnapshot struct {
	Name    string `json:"name"`
	Seconds int64  `json:"date-sec"`
}

type qmpError struct {
	Description string `json:"desc"`
}

// answer reads what qemu-monitor-command printed. virsh ends with 0 also where QEMU refuses.
func answer(out []byte, into any, refused func() *qmpError) error {
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("the monitor of QEMU printed no JSON: %w", err)
	}
	if e := refused(); e != nil {
		return fmt.Errorf("QEMU refused: %s", e.Description)
	}
	return nil
}

func readBlocks(out []byte) (blocks, error) {
	var b blocks
	err := answer(out, &b, func() *qmpError { return b.Error })
	return b, err
}

// nodes returns what QEMU calls each of the disks, in their order.
func (b blocks) nodes(disks []disk) ([]string, error) {
	out := make([]string, len(disks))
	for i, k := range disks {
		at := b.of(k)
		if at < 0 {
			return nil, fmt.Errorf("QEMU has no disk %s", k.Target.Dev)
		}
		out[i] = b.Return[at].Device
		if out[i] == "" {
			out[i] = b.Return[at].Inserted.NodeName
		}
	}
	return out, nil
}

// of is the place of a disk in the answer, or -1. The device's path ends with libvirt's alias, or has it in its middle.
func (b blocks) of(k disk) int {
	for i, r := range b.Return {
		if r.Inserted == nil || k.Alias.Name == "" {
			continue
		}
		for word := range strings.SplitSeq(r.QDev, "/") {
			if word == k.Alias.Name {
				return i
			}
		}
		if r.Device == "drive-"+k.Alias.Name {
			return i
		}
	}
	return -1
}

// common returns the snapshots that all of the disks have inside their images, by name, with their time in Unix seconds.
func (b blocks) common(disks []disk) map[string]int64 {
	out := map[string]int64{}
	for i, k := range disks {
		have := map[string]int64{}
		if at := b.of(k); at >= 0 {
			for _, s := range b.Return[at].Inserted.Image.Snapshots {
				if _, also := out[s.Name]; also || i == 0 {
					have[s.Name] = s.Seconds
				}
			}
		}
		out = have
	}
	return out
}

// transaction asks QEMU for a snapshot inside the images of all disks, of one moment.
func transaction(nodes []string, name string) (string, error) {
	type data struct {
		Device string `json:"device"`
		Name   string `json:"name"`
	}
	type action struct {
		Type string `json:"type"`
		Data data   `json:"data"`
	}
	var actions []action
	for _, n := range nodes {
		actions = append(actions, action{Type: "blockdev-snapshot-internal-sync", Data: data{Device: n, Name: name}})
	}
	out, err := json.Marshal(map[string]any{"execute": "transaction", "arguments": map[string]any{"actions": actions}})
	return string(out), err
}

// description of a snapshot as libvirt keeps it: up to its time, and from there to the domain's, which it ends with. libvirt adds both to one that it takes itself.
func description(name string, disks []disk) (before, after string) {
	var out strings.Builder
	text := func(s string) { _ = xml.EscapeText(&out, []byte(s)) }
	out.WriteString("<domainsnapshot><name>")
	text(name)
	out.WriteString("</name><description>katoflow</description>")
	before = out.String()
	out.Reset()
	out.WriteString("<memory snapshot='no'/><disks>")
	for _, k := range disks {
		out.WriteString("<disk name='")
		text(k.Target.Dev)
		out.WriteString("' snapshot='internal'/>")
	}
	out.WriteString("</disks>")
	return before, out.String()
}
