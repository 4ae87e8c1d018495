package ec2

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// calls are those of the client that are used. A Provider that held the client itself would have the linker keep all of its seven hundred calls, because a Provider is used as an interface and so may
// be looked into: 30 MB more.
type calls struct {
	AttachVolume            func(context.Context, *ec2.AttachVolumeInput, ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error)
	CreateSnapshots         func(context.Context, *ec2.CreateSnapshotsInput, ...func(*ec2.Options)) (*ec2.CreateSnapshotsOutput, error)
	CreateTags              func(context.Context, *ec2.CreateTagsInput, ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error)
	CreateVolume            func(context.Context, *ec2.CreateVolumeInput, ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error)
	DeleteSnapshot          func(context.Context, *ec2.DeleteSnapshotInput, ...func(*ec2.Options)) (*ec2.DeleteSnapshotOutput, error)
	DeleteVolume            func(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
	DescribeInstanceTypes   func(context.Context, *ec2.DescribeInstanceTypesInput, ...func(*ec2.Options)) (*ec2.DescribeInstanceTypesOutput, error)
	DescribeInstances       func(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)
	DescribeSnapshots       func(context.Context, *ec2.DescribeSnapshotsInput, ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error)
	DescribeVolumes         func(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	DetachVolume            func(context.Context, *ec2.DetachVolumeInput, ...func(*ec2.Options)) (*ec2.DetachVolumeOutput, error)
	ModifyInstanceAttribute func(context.Context, *ec2.ModifyInstanceAttributeInput, ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error)
	StartInstances          func(context.Context, *ec2.StartInstancesInput, ...func(*ec2.Options)) (*ec2.StartInstancesOutput, error)
	StopInstances           func(context.Context, *ec2.StopInstancesInput, ...func(*ec2.Options)) (*ec2.StopInstancesOutput, error)
}

func callsOf(client *ec2.Client) calls {
	return calls{
		AttachVolume:            client.AttachVolume,
		CreateSnapshots:         client.CreateSnapshots,
		CreateTags:              client.CreateTags,
		CreateVolume:            client.CreateVolume,
		DeleteSnapshot:          client.DeleteSnapshot,
		DeleteVolume:            client.DeleteVolume,
		DescribeInstanceTypes:   client.DescribeInstanceTypes,
		DescribeInstances:       client.DescribeInstances,
		DescribeSnapshots:       client.DescribeSnapshots,
		DescribeVolumes:         client.DescribeVolumes,
		DetachVolume:            client.DetachVolume,
		ModifyInstanceAttribute: client.ModifyInstanceAttribute,
		StartInstances:          client.StartInstances,
		StopInstances:           client.StopInstances,
	}
}
