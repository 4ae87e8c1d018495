// Package docker builds docker command lines and reads what docker prints, for the generations that ALS clusters have had since docker 1.0 (kato.md §7). It does no I/O.
package docker
