package simcluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
)

const (
	autoscalingFile = "/s/etc/autoscaling/autoscaling.yaml"
	// firstTemplate is the VM image that DEAs are made from at the start.
	firstTemplate = "f3a5c1de-0d6c-4b7e-9d0a-6f1c2b7e8a01"
)

// makeAutoscaling writes the configuration of autoscaling (kato.md §7). Its plugin is enabled on one controller only.
func (n *Node) makeAutoscaling() error {
	if !n.cluster.cfg.Autoscaling || !slices.Contains(n.cfg.Roles, "controller") {
		return nil
	}
	plugins := " []"
	for _, o := range n.cluster.nodes {
		if slices.Contains(o.cfg.Roles, "controller") {
			if o == n {
				plugins = "\n  - OpenStack"
			}
			break
		}
	}
	if err := os.MkdirAll(n.tree.host(path.Dir(autoscalingFile)), 0o755); err != nil {
		return err
	}
	n.tree.setOwner("/s", n.loginUser())
	return n.tree.put(autoscalingFile, fmt.Sprintf(`---
enabled_plugins:%s
scale_op_timeout: 300
cooldown_period: 120
vm_name_prefix: %s-dea
platform_config:
  OpenStack:
    openstack_auth_url: http://192.0.2.10:5000/v2.0/tokens
    openstack_username: admin
    openstack_api_key: %s
    openstack_tenant: demo
    template_id: %s
    flavor_id: 3
`, plugins, n.cluster.cfg.Name, ContainerSecret, firstTemplate), 0o644)
}

var templateLine = regexp.MustCompile(`(?m)^(\s+template_id:).*$`)

// SetAutoscalingTemplate writes another template of DEAs into the node's configuration of autoscaling, as an administrator does who has made a new one. It is an error where there is no such file.
func (n *Node) SetAutoscalingTemplate(id string) error {
	n.fault("template %s of autoscaling", id)
	old, err := n.ReadFile(autoscalingFile)
	if err != nil {
		return err
	}
	return n.tree.put(autoscalingFile, string(templateLine.ReplaceAll(bytes.Clone(old), []byte("$1 "+id))), 0o644)
}

// SetAutoscalingTemplate does it on every controller.
func (c *Cluster) SetAutoscalingTemplate(id string) error {
	if !c.cfg.Autoscaling {
		return errors.New("the cluster has no autoscaling")
	}
	for _, n := range c.nodes {
		if slices.Contains(n.cfg.Roles, "controller") {
			if err := n.SetAutoscalingTemplate(id); err != nil {
				return fmt.Errorf("node %s: %w", n.name, err)
			}
		}
	}
	return nil
}
