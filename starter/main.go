// Command katoflow is the operator's command line: it starts operations, shows and answers them. The work is done by katoflow-worker.
package main

import (
	"os"
	"time"

	"go.temporal.io/sdk/contrib/envconfig"
)

func main() {
	os.Exit(run(os.Args[1:], surroundings{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		getenv: os.Getenv, temporalEnv: envconfig.EnvLookupOS, now: time.Now,
	}))
}
