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
test: build ## Pass every test: units, conformance suites, fuzz seeds, all with -race, and the end-to-end run
	$(GO) vet ./...
	$(GO) test -race -timeout 15m ./...
	$(GO) test -tags e2e -count=1 -timeout 15m ./test/e2e

.PHONY: test-short
test-short: ## The tests without -race and without the end-to-end run
	$(GO) test -timeout 10m ./...

.PHONY: e2e
e2e: build ## Only the end-to-end run: import, check, posts over both edges, restart
	$(GO) test -tags e2e -count=1 -timeout 15m ./test/e2e

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s) each
	bash test/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: bench
bench: ## Run the benchmarks beside their floors
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: lint
lint: ## Lint
	$(LINT) run ./...

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
