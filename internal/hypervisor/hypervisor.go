// Package hypervisor takes, finds, deletes and goes back to snapshots of VMs, behind one small interface. What every provider promises is written here and proved by
// one conformance suite, hypervisortest.
//
// A snapshot is known by its name alone, which the caller derives from its operation: a call that is repeated after a crash finds what the first one made. Providers
// therefore keep nothing of their own, and two processes may use them at once.
package hypervisor

import (
	"context"
	"fmt"
	"time"
)

// VM is one VM of a cluster.
type VM struct {
	// Node is the cluster's name for it, for messages.
	Node string
	// ID is the provider's name or id for it: a libvirt domain, an OpenStack server, a vSphere inventory path or name, an EC2 instance.
	ID string
	// Host that has it, where the provider knows several (libvirt, command).
	Host string
}

// State of a snapshot.
type State string

const (
	// Pending: its moment lies in the past, and it cannot be used yet because the provider still copies.
	Pending State = "pending"
	// Ready: it can be gone back to.
	Ready State = "ready"
	// Failed: it never will.
	Failed State = "failed"
)

// Snapshot of one VM, all its disks together.
type Snapshot struct {
	// Name is what the caller gave it.
	Name string
	// ID is the provider's own word for it; several, one for each disk, are separated by commas.
	ID string
	// State says whether it can be gone back to.
	State State
	// Created is the provider's word of when it was made, the zero time where it has none.
	Created time.Time
	// Size in bytes, 0 where the provider does not tell.
	Size int64
}

// Power of a VM.
type Power string

const (
	// On: it runs.
	On Power = "on"
	// Off: it is shut down, and nothing writes to its disks.
	Off Power = "off"
	// Other is anything else, such as paused or going down.
	Other Power = "other"
)

// Provider is one hypervisor or cloud. Its methods may be called at the same time, and any number of times: each finds what an earlier call has done. Errors are one
// line and name the VM by its node; a request that may not have been heard is an *UnknownError.
type Provider interface {
	// Check asks whether snapshots of all these VMs can be taken now: the provider answers and lets us in, every VM is there and is one (not two of the same name), there is
	// quota and space, and no other snapshot of them is under way. It changes nothing. Problems come all at once; error is for a provider that does not answer at all.
	Check(ctx context.Context, vms []VM) ([]Problem, error)

	// Prepare makes a snapshot's request ready, so that Shot.Take has nothing to look up and no connection to make. It changes nothing at the provider.
	// Every Shot is closed by its caller.
	Prepare(ctx context.Context, vm VM, name string) (Shot, error)

	// Find looks for the snapshot of a VM by its name; false when there is none.
	Find(ctx context.Context, vm VM, name string) (Snapshot, bool, error)

	// List returns the snapshots of a VM whose names begin with prefix, oldest first.
	List(ctx context.Context, vm VM, prefix string) ([]Snapshot, error)

	// Delete removes the snapshot of that name, also one that is pending or failed. None of that name is no error.
	Delete(ctx context.Context, vm VM, name string) error

	// Rollback puts the disks of a VM that is off back to the snapshot's moment, and leaves it off. Done again it does the same again, so that nothing that was written after
	// the first time survives.
	Rollback(ctx context.Context, vm VM, name string) error

	// Power tells whether the VM runs.
	Power(ctx context.Context, vm VM) (Power, error)

	// Start switches a VM on; one that is on stays so. It does not wait for the guest.
	Start(ctx context.Context, vm VM) error

	// Stop asks the guest to shut down (hard: takes its power away) and returns at once; Power tells when it is off. A VM that is off stays so.
	Stop(ctx context.Context, vm VM, hard bool) error

	// Close gives back connections.
	Close() error
}

// RollbackChecker is a Provider that cannot go back to every snapshot that is ready.
type RollbackChecker interface {
	// CheckRollback asks what keeps a VM from being put back to the snapshot of that name, whatever its power; with another, when one more is taken of it before. It changes
	// nothing. Problems come all at once.
	CheckRollback(ctx context.Context, vm VM, name string, another bool) ([]Problem, error)
}

// Shot is a snapshot's request that only needs to be sent.
type Shot interface {
	// Take sends the request and returns when the moment of the snapshot has certainly passed: it lies between the call and the return. The snapshot may be Pending then; Find
	// tells when it is Ready. Where one of that name is there already it is returned, and its moment is not between the two: Prepare or Find ask for that first. An
	// *UnknownError says that the request may have been carried out.
	Take(ctx context.Context) (Snapshot, error)
	// Close gives back what Prepare holds. It takes nothing back.
	Close() error
}

// Problem is one thing that stands in the way of a snapshot.
type Problem struct {
	// Node it is about, "" for the provider as a whole.
	Node string
	// Text in one line: what is wrong and what would be right.
	Text string
}

// String is "node: text".
func (p Problem) String() string {
	if p.Node == "" {
		return p.Text
	}
	return p.Node + ": " + p.Text
}

// NotFoundError says that a VM or a snapshot that was to be used is not there.
type NotFoundError struct {
	Node string
	// What was looked for.
	What string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%s: %s is not there", e.Node, e.What) }

// UnknownError says that a request was sent and its answer lost: it may have been carried out, and Find tells.
type UnknownError struct {
	Node string
	Err  error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%s: nobody knows whether the request was carried out: %v", e.Node, e.Err)
}

func (e *UnknownError) Unwrap() error { return e.Err }
