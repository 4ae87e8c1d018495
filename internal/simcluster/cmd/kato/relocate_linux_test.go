package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

func TestRelocate_OnAHost_IsRefusedAndRecorded(t *testing.T) {
	h := start(t)
	_, stderr, exit := h.kato(ids[1], "relocate", "services", "mnt/ebs")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: mnt/ebs does not exist\n", stderr)
	_, stderr, exit = h.kato(ids[1], "relocate", "all", "/mnt/ebs")
	require.Equal(t, 1, exit)
	require.Contains(t, stderr, "kato relocate [options] (containers|droplets|services) <new_location>\n")
	require.Len(t, h.commands(ids[1]), 2)
}

func TestRelocate_FaultOfAHost_IsUsedUpAndOutlivesABoot(t *testing.T) {
	h := start(t)
	require.Equal(t, http.StatusBadRequest, h.request(http.MethodPatch, ids[1], "/state", `{"relocate":{"fault":"explodes"}}`, nil))
	h.patch(ids[1], `{"relocate":{"fault":"half","times":1,"seconds":2,"remove_original":true}}`)
	h.stop(ids[1])
	h.boot(ids[1])
	var now katodouble.Relocate
	require.Equal(t, http.StatusOK, h.request(http.MethodPost, ids[1], "/relocations", "", &now))
	require.Equal(t, katodouble.Relocate{Seconds: 2, RemoveOriginal: true, Fault: katodouble.RelocateHalf, Times: 1}, now)
	require.Equal(t, http.StatusOK, h.request(http.MethodPost, ids[1], "/relocations", "", &now))
	require.Equal(t, katodouble.Relocate{Seconds: 2, RemoveOriginal: true}, h.state(ids[1]).Relocate)
	require.Equal(t, katodouble.Relocate{}, h.patch(ids[1], `{"relocate":{"heal":true}}`).Relocate)
}
