# katoflow: run `make help`.
GO       ?= go
BIN      := $(CURDIR)/bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.buildVersion=$(VERSION)
PRODUCT  := $(shell find worker starter workflows activities internal deploy/lab -name '*.go' -o -name '*.sh' -o -name '*.json' 2>/dev/null) go.mod go.sum
DEVSTACK := $(shell find deploy/devstack -name '*.go') deploy/devstack/go.mod deploy/devstack/go.sum
TOOLS    := $(shell find tools -name '*.go') tools/go.mod tools/go.sum

export CGO_ENABLED ?= 0
export GOTOOLCHAIN ?= local

NODES    ?= 5

.PHONY: help binaries build demo test test-unit test-e2e kill-matrix bench bench-transfer lab-up lab-down lab-test lab-bench check fmt histories golden schema fuzz clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

binaries: $(BIN)/katoflow $(BIN)/katoflow-worker $(BIN)/simcluster

build: binaries $(BIN)/devstack ## the binaries, into bin/

$(BIN)/katoflow: $(PRODUCT)
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./starter

$(BIN)/katoflow-worker: $(PRODUCT)
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./worker

$(BIN)/simcluster: $(PRODUCT)
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./internal/simcluster/cmd/simcluster

# The lab's hosts run it; it needs nothing of the machine it is built on.
$(BIN)/kato: $(PRODUCT)
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $@ ./internal/simcluster/cmd/kato

$(BIN)/lab: $(PRODUCT)
	$(GO) build -ldflags '-s -w' -o $@ ./deploy/lab

$(BIN)/devstack: $(DEVSTACK)
	@echo 'building Temporal, its Web UI and an S3 server; the first time this takes some minutes'
	$(GO) build -C deploy/devstack -gcflags=all=-dwarf=false -ldflags '-s -w' -o $@ .

demo: build ## a rolling security upgrade of a simulated cluster, with the Web UI (ONCE=1 ends by itself; PORT=, UI_PORT=)
	@ONCE=$(ONCE) deploy/demo/run

# With KATOFLOW_SHARE=2/12 the kill matrices, the deaths at every statement and the race detector are tried for the second of twelve parts only; all else runs always.
# Most tests wait: several packages at a time. The end-to-end tests run processes that are built without the race detector, and it would only slow the cases down.
UNITS = $(GO) list ./... | grep -v -e /internal/e2e -e /hypervisor/libvirt$$
# make check has vetted them where there is a share, which is in the gate.
VETTED = $(if $(KATOFLOW_SHARE),-vet=off)
PART = awk -v share="$(KATOFLOW_SHARE)" -v others="$(1)" 'BEGIN { split(share, of, "/") } share == "" || ((NR - of[1]) % of[2] == 0) != others'
test: build ## all tests that need no root; those of single packages with the race detector
ifeq ($(KATOFLOW_SHARE),)
	$(UNITS) | CGO_ENABLED=1 xargs $(GO) test $(VETTED) -race -p 4 -timeout 30m
else
	@# Side by side: the longest of both only wait.
	$(UNITS) | $(call PART,0) | CGO_ENABLED=1 xargs $(GO) test $(VETTED) -race -p 2 -timeout 30m & raced=$$!; \
	$(UNITS) | $(call PART,1) | xargs $(GO) test $(VETTED) -p 3 -parallel 4 -timeout 30m; others=$$?; \
	wait $$raced && exit $$others
endif
	@# Emulated machines want the processors for themselves.
	$(GO) test $(VETTED) -timeout 20m ./internal/hypervisor/libvirt
	$(GO) test $(VETTED) -timeout 40m -parallel 8 ./internal/e2e/...
	$(GO) test -C deploy/devstack $(VETTED) -timeout 10m ./...
	$(GO) test -C tools $(VETTED) -timeout 10m ./...

test-unit: ## the tests without a Temporal server
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list ./... | grep -v /internal/e2e)

test-e2e: build ## the end-to-end tests alone
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 40m -parallel 6 -v ./internal/e2e/...

kill-matrix: build ## SIGKILL the worker at every step boundary and inside every job
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 30m -v -run 'TestKillMatrix' ./internal/e2e/

bench: build $(BIN)/rclone ## the figures, as JSON on standard output
	@$(GO) run ./internal/e2e/bench
	@$(GO) run ./internal/e2e/transferbench

bench-transfer: build $(BIN)/rclone ## how an archive comes into the bucket, beside ssh cat | rclone rcat, as JSON
	@$(GO) run ./internal/e2e/transferbench

# The peer of the measurement, and nothing that katoflow needs.
$(BIN)/rclone:
	GOBIN=$(BIN) $(GO) install github.com/rclone/rclone@v1.76.0

lab-up: $(BIN)/lab $(BIN)/kato ## real Debian hosts on this machine (root on Linux; NODES=5)
	@deploy/lab/install
	@$(BIN)/lab up --nodes $(NODES)

lab-down: $(BIN)/lab ## end them and remove all of it
	@$(BIN)/lab down

lab-test: build $(BIN)/kato ## the end-to-end tests on real hosts
	@deploy/lab/install openssh-server
	KATOFLOW_LAB=1 $(GO) test -count=1 -timeout 10m ./internal/lab
	@# The whole of it takes twelve times as long as the gate's part.
	KATOFLOW_LAB=1 $(GO) test -count=1 -timeout $(if $(KATOFLOW_SHARE),38m,4h) -parallel 8 -v ./internal/e2e

lab-bench: build $(BIN)/rclone ## upgrades beside Ansible and a bare ssh loop, transfers beside rclone, on real hosts, as JSON
	@deploy/lab/install ansible >&2
	@$(GO) run ./internal/e2e/labbench
	@$(GO) run ./internal/e2e/transferbench -lab

$(BIN)/staticcheck: $(TOOLS)
	$(GO) build -C tools -o $@ honnef.co/go/tools/cmd/staticcheck

$(BIN)/workflowcheck: $(TOOLS)
	$(GO) build -C tools -o $@ go.temporal.io/sdk/contrib/tools/workflowcheck

$(BIN)/importrules: $(TOOLS)
	$(GO) build -C tools -o $@ ./importrules

# Both look at all that a module is built on, Temporal's server in that of devstack, which takes longer than all of our own: with a share they do it in the first of its parts only.
WHOLE = $(if $(KATOFLOW_SHARE),$(filter 1/%,$(KATOFLOW_SHARE)),all)
check: $(BIN)/staticcheck $(BIN)/workflowcheck $(BIN)/importrules ## format, vet, staticcheck, workflowcheck, import rules
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'gofmt would change:'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(if $(WHOLE),$(GO) vet -C deploy/devstack ./...)
	$(if $(WHOLE),$(GO) vet -C tools ./...)
	$(BIN)/staticcheck ./...
	$(if $(WHOLE),cd deploy/devstack && $(BIN)/staticcheck ./...)
	$(if $(WHOLE),cd tools && $(BIN)/staticcheck ./...)
	$(BIN)/workflowcheck -config workflowcheck.config.yaml ./workflows/... ./worker/...
	$(BIN)/importrules

fmt: ## format all code
	gofmt -w $$(git ls-files '*.go')

histories: build ## record the replay corpus anew (only for a new release; old histories stay)
	$(GO) run ./internal/e2e/record

golden: ## rewrite the golden files
	$(GO) test ./internal/inventory ./starter/... ./workflows -update

FUZZTIME ?= 30s
fuzz: ## every fuzz test for FUZZTIME
	@set -e; for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz' || true); do \
	  echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done

clean: ## remove what was built and the demo's state
	rm -rf bin .demo
