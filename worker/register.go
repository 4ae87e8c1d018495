package main

import (
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/remote"
	"github.com/katoflow/katoflow/workflows"
)

// hands is what the activities work with.
type hands struct {
	// inventory is the path of the worker's file.
	inventory string
	env       func(string) (string, bool)
	pool      *remote.Pool
	client    client.Client
	namespace string
	log       *zap.Logger
}

// register makes every workflow and activity known to w. Activities are registered under their methods' names.
func register(w worker.Registry, h hands) {
	workflows.Register(w)
	w.RegisterActivity(&activities.Inventory{})
	w.RegisterActivity(&activities.Locks{})
	w.RegisterActivity(&activities.Nodes{})
	w.RegisterActivity(&activities.Kato{})
	w.RegisterActivity(&activities.Notifier{})
}
