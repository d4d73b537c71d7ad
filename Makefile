# `make` lists the targets. Everything runs without root and without a prompt.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE_BIN := $(TARGET_DIR)/release/aionis
DEV_BIN := $(TARGET_DIR)/debug/aionis
MODEL_DIR := $(abspath $(or $(AIONIS_MODEL_DIR),.models/potion-base-8M))
NEXTEST_VERSION := 0.9.143
DENY_VERSION := 0.20.2

# What `make deny` checks. `advisories` needs the advisory database from the network.
DENY_CHECKS ?= bans licenses sources
# Further arguments of `aionis bench`.
BENCH_ARGS ?=
# Which fuzz target, and for how long.
FUZZ_TARGET ?=
FUZZ_SECONDS ?= 60
# For how long `make load` loads.
LOAD_SECONDS ?= 600
# The server `make gate-core` judges, and further arguments of `aionis gate core`.
BASE_URL ?= http://127.0.0.1:3001
GATE_ARGS ?=
# Nodes of `make cutover`.
CUTOVER_NODES ?= 100000
# `make test SKIP_MODEL=1` tests without the model: what needs it is not tested.
SKIP_MODEL ?=

# A developer's own settings must not reach the tests.
unexport AIONIS_MODEL_DIR AIONIS_DATA_DIR DATABASE_URL

.DEFAULT_GOAL := help
# The compose command, and what else `stack-down` is to do: -v removes the data too.
COMPOSE ?= docker compose
STACK_DOWN_ARGS ?=

.PHONY: help toolchain build model quickstart openapi test test-contract test-model test-postgres test-sdks nextest lint docs docs-check deny stack-up stack-down fuzz fuzz-http bench load gate-core cutover test-partitioned clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

toolchain:
	@command -v $(CARGO) >/dev/null || { \
	  echo 'Rust 1.95 or newer is needed and cargo is not in PATH. Install it with'; \
	  echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"; \
	  echo 'and open a new shell (or run: . "$$HOME/.cargo/env").'; \
	  exit 1; } >&2

build: toolchain ## Build the release program
	$(CARGO) build --locked --release -p aionis

model: build ## Install the built-in embedding model in .models (or AIONIS_MODEL_DIR)
	AIONIS_MODEL_DIR='$(MODEL_DIR)' scripts/fetch-model.sh '$(RELEASE_BIN)'

quickstart: model ## Build, start a server, show that a paraphrased question finds a memory, restart, ask again
	'$(RELEASE_BIN)' quickstart --require-success --model-dir '$(MODEL_DIR)' --result-file '$(TARGET_DIR)/quickstart.json'

test: toolchain nextest test-model test-postgres test-sdks ## Run all tests, on both storage engines
	$(if $(SKIP_MODEL),,AIONIS_TEST_MODEL_DIR='$(MODEL_DIR)') '$(TARGET_DIR)/debug/with-postgres' $(CARGO) nextest run --locked --workspace
	$(CARGO) test --locked --workspace --doc

test-contract: toolchain nextest test-postgres test-sdks ## Run what clients rely on: every bound of the OpenAPI document, the published clients
	'$(TARGET_DIR)/debug/with-postgres' $(CARGO) nextest run --locked --workspace \
	  -E 'binary(it) and (package(aionis-api) and test(/^contract::/) or package(aionis) and test(/^sdk::/))'

# Built with the tests' own features, so that nothing is compiled twice.
test-model: toolchain
	$(CARGO) build --locked --workspace --bins --tests
	$(if $(SKIP_MODEL),@echo 'SKIP_MODEL is set: what needs the model is not tested',AIONIS_MODEL_DIR='$(MODEL_DIR)' scripts/fetch-model.sh '$(DEV_BIN)')

# A server of the tests' own; AIONIS_TEST_PG_URL names another one.
test-postgres:
	scripts/fetch-postgres.sh

# The published clients that are run against the service.
test-sdks:
	scripts/fetch-sdks.sh

# What the tests call stale: the OpenAPI document and the table of error codes.
openapi: toolchain ## Write docs/openapi.json and the error codes in docs/http.md anew
	$(CARGO) build --locked -p aionis
	scripts/refresh-docs.sh '$(DEV_BIN)'

nextest: toolchain
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest --version $(NEXTEST_VERSION)

lint: toolchain ## Check formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

docs: toolchain ## Build the code's documentation; a warning is an error
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --workspace

docs-check: toolchain nextest ## Compare documents, workflows and compose files with the program
	$(CARGO) nextest run --locked --workspace -E 'package(aionis) and (test(/^docs_check::/) or test(/^profiles::/))'

stack-up: ## Start PostgreSQL, API and worker as containers and wait until they are healthy
	scripts/stack-env.sh
	$(COMPOSE) --env-file .env.stack up -d --wait db api worker

stack-down: ## Stop them; the data stays unless STACK_DOWN_ARGS=-v
	$(COMPOSE) --env-file .env.stack down $(STACK_DOWN_ARGS)

deny: toolchain ## Check licences, banned crates and sources of all dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
	  echo 'cargo-deny is missing: $(CARGO) install --locked cargo-deny --version $(DENY_VERSION)' >&2; exit 1; }
	$(CARGO) deny --locked check $(DENY_CHECKS)

fuzz: toolchain ## Run one fuzz target (optional; needs cargo-fuzz): make fuzz FUZZ_TARGET=name FUZZ_SECONDS=60
	@test -d fuzz || { echo 'this tree has no fuzz targets' >&2; exit 1; }
	@test -n '$(FUZZ_TARGET)' || { \
	  echo 'say which: make fuzz FUZZ_TARGET=name; there are:' $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))) >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo 'cargo-fuzz is missing: $(CARGO) install --locked cargo-fuzz' >&2; exit 1; }
	mkdir -p 'fuzz/corpus/$(FUZZ_TARGET)'
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run '$(FUZZ_TARGET)' 'fuzz/corpus/$(FUZZ_TARGET)' \
	  $(wildcard fuzz/corpus-seeds/$(FUZZ_TARGET)) -- -max_total_time=$(FUZZ_SECONDS)

fuzz-http: toolchain ## Fuzz a server of its own over HTTP by the OpenAPI document: make fuzz-http FUZZ_SECONDS=600
	$(CARGO) build --locked -p aionis
	scripts/fuzz-http.sh '$(DEV_BIN)' $(if $(filter command line environment,$(origin FUZZ_SECONDS)),$(FUZZ_SECONDS),600)

load: build ## Load a server on PostgreSQL beyond its gates with two tenants and judge it: make load LOAD_SECONDS=600
	scripts/fetch-postgres.sh
	$(CARGO) build --locked -p aionis-testkit --bin with-postgres
	'$(TARGET_DIR)/debug/with-postgres' sh -c 'DATABASE_URL="$$AIONIS_TEST_PG_URL" exec scripts/load.sh "$(RELEASE_BIN)" $(LOAD_SECONDS)'

cutover: build ## Partition a database under load, with kills, back and forth: make cutover CUTOVER_NODES=1000000
	scripts/fetch-postgres.sh
	$(CARGO) build --locked -p aionis-testkit --bin with-postgres
	'$(TARGET_DIR)/debug/with-postgres' scripts/partition-cutover.sh '$(RELEASE_BIN)' $(CUTOVER_NODES)

test-partitioned: toolchain ## Run the tests of storage on PostgreSQL with partitioned tables
	scripts/fetch-postgres.sh
	$(CARGO) build --locked -p aionis-testkit --bins
	AIONIS_TEST_PG_LAYOUT=partitioned '$(TARGET_DIR)/debug/with-postgres' $(CARGO) nextest run --locked --workspace \
	  -E 'package(aionis-store) & binary(=it) & (test(on_postgres) | test(postgres::))'

bench: model ## Measure latency and throughput of a server with an empty data directory (BENCH_ARGS: aionis bench --help)
	AIONIS_MODEL_DIR='$(MODEL_DIR)' scripts/bench.sh '$(RELEASE_BIN)' $(BENCH_ARGS)

# The gate is of a deployment, so that the database is what the caller's environment says.
gate-core: export DATABASE_URL := $(DATABASE_URL)
gate-core: build ## Judge whether the server at BASE_URL, over the database of DATABASE_URL, may be released (GATE_ARGS: aionis gate core --help)
	@BASE_URL='$(BASE_URL)' '$(RELEASE_BIN)' gate core $(GATE_ARGS)

clean: ## Remove build results; the model in .models stays
	$(CARGO) clean
