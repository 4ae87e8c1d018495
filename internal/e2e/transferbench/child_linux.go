package main

import (
	"syscall"
)

// usage is the process's own CPU time in seconds and peak memory in MiB.
func usage() (cpu, peak float64, err error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0, err
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, float64(u.Maxrss) / 1024, nil
}
