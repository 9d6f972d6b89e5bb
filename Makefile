# Parley: the commands people type. `make` alone lists them.

GO      ?= go
DATA    ?= data
LINT    := $(GO) tool -modfile=tools/go.mod golangci-lint
BUF_MOD := tools/buf/go.mod

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/parley
	$(GO) build -o bin/parley ./cmd/parley

.PHONY: dev
dev: build ## Start two regions, four cells, two edges and a control plane on this machine (DATA=dir)
	bin/parley dev --data $(DATA)

.PHONY: test
test: build ## Pass every test: units, conformance suites, fuzz seeds, all with -race, simulated time, the walk through a cluster, and the short drills
	$(GO) vet ./...
	$(GO) test -race -timeout 20m ./...
	$(MAKE) sim
	$(MAKE) walk
	$(MAKE) e2e-short

.PHONY: test-short
test-short: ## The tests without -race and without the end-to-end run
	$(GO) test -timeout 10m ./...

.PHONY: sim
sim: ## Only simulated time: hours of faults in a cell and in Raft, and mutants of the protocol (SEEDS=20 for more)
	$(GO) test -tags failpoints -count=1 -timeout $(if $(SEEDS),5h,20m) ./test/sim $(if $(SEEDS),-seeds $(SEEDS))

.PHONY: walk
walk: build ## Only the walk through one cluster: import, check, posts over both edges, chat in two terminals, restart
	$(GO) test -tags e2e -count=1 -timeout 15m ./test/e2e

# What drills run: a parley that can be broken, and etcd from its own module.
.PHONY: drill-binaries
drill-binaries:
	$(GO) build -tags failpoints -o bin/parley-drill ./cmd/parley
	$(GO) build -o bin/etcd go.etcd.io/etcd/server/v3

.PHONY: e2e
e2e: drill-binaries ## Every drill: faults under load in a cluster of processes; writes docs/drills.md (REPLAY=export.zip)
	bin/parley-drill chaos run --table docs/drills.md --commit "$$(git describe --always --dirty)" $(if $(REPLAY),--replay $(REPLAY) --speed $(or $(SPEED),60))

.PHONY: e2e-short
e2e-short: drill-binaries ## The short form of the drills, under 8 minutes
	bin/parley-drill chaos run --short

.PHONY: engines
engines: ## Install real engines and start one of each for the conformance suites (docs/engines.md)
	tools/engines/engines install
	tools/engines/engines up suite
	tools/engines/engines status suite

.PHONY: engines-down
engines-down: ## Stop them; data and logs are kept
	tools/engines/engines down suite
	tools/engines/engines down suite3

.PHONY: cells
cells: ## Install and start the engines of two cells, each its own (NODES=3: three of Cassandra and Kafka)
	tools/engines/engines install cell-1
	tools/engines/engines up cell-1 $(if $(NODES),--nodes $(NODES))
	tools/engines/engines up cell-2 $(if $(NODES),--nodes $(NODES))
	tools/engines/engines status

.PHONY: cells-down
cells-down: ## Stop them; data and logs are kept
	tools/engines/engines down cell-1
	tools/engines/engines down cell-2

.PHONY: e2e-engines
e2e-engines: drill-binaries ## Every drill on two cells with real engines, and the engines' own faults; writes their rows into docs/operations.md (DRILLS="names" for some, REPLAY=export.zip, AWAY=10m)
	bash tools/engines/drills.sh $(if $(REPLAY),--replay $(REPLAY) --speed $(or $(SPEED),10),--speed $(or $(SPEED),0.4)) $(if $(AWAY),--away $(AWAY)) \
		--table docs/operations.md --commit "$$(git describe --always --dirty)" $(DRILLS)

.PHONY: e2e-engines-short
e2e-engines-short: drill-binaries ## The short form of them, 10 minutes
	bash tools/engines/drills.sh --speed 0.4 --short

.PHONY: test-engines
test-engines: ## The conformance suites against real engines, and their failure tests on three nodes; leaves nothing running
	bash tools/engines/test.sh

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s) each
	bash test/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: bench
bench: build ## Every workload beside its floor, 15 minutes; writes docs/benchmarks.md (QUICK=1: 3 minutes, only printed)
	$(GO) build -o bin/parley-bench ./bench/run
	bin/parley-bench bench report --parley bin/parley --for 4s --profile 4s $(if $(QUICK),--quick,--write docs/benchmarks.md)

# What measures cells on real engines: parley, its measuring program, etcd.
.PHONY: engine-binaries
engine-binaries: build
	$(GO) build -o bin/parley-bench ./bench/run
	$(GO) build -o bin/etcd go.etcd.io/etcd/server/v3
	tools/engines/engines install cell-1

.PHONY: bench-engines
bench-engines: engine-binaries ## A cell on real engines beside the engines alone, 15 minutes; writes docs/benchmarks-engines.md (QUICK=1: only printed; ONLY=posts,lag)
	bin/parley-bench bench engines --parley bin/parley --runs 3 $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick,--rows bin/bench-engines.json --write docs/benchmarks-engines.md)

.PHONY: replay-engines
replay-engines: engine-binaries ## Import and replay conversations on a cell on real engines, and compare its stores (REPLAY=export.zip FOR=5m)
	bin/parley-bench bench replay-engines $(or $(REPLAY),$(error REPLAY=export.zip is missing)) --parley bin/parley $(if $(FOR),--replay-for $(FOR))

.PHONY: bench-compare
bench-compare: ## Two commits in turns, compared by benchstat (BASE=HEAD~1 HEAD=HEAD ROUNDS=5 ONLY=fan-out,idle)
	bash bench/compare.sh "$(or $(BASE),HEAD~1)" "$(or $(HEAD),HEAD)" "$(or $(ROUNDS),5)" "$(ONLY)"

.PHONY: lint
lint: ## Lint
	$(LINT) run ./...
	$(LINT) run --build-tags failpoints,e2e ./internal/failpoint/... ./internal/roles/... ./cell/msglog/... ./test/...
	$(LINT) run --build-tags engines ./...

.PHONY: format
format: ## Format
	$(LINT) fmt ./...

.PHONY: generate
generate: ## Generate the control API's code from proto/
	$(GO) build -modfile=$(BUF_MOD) -o bin/tools/ github.com/bufbuild/buf/cmd/buf google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
	PATH="$(CURDIR)/bin/tools:$$PATH" bin/tools/buf generate

.PHONY: clean
clean: ## Remove what make built (not the data)
	rm -rf bin
