# The only entry points people learn. `make demo` and `make test` set up whatever they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash

CARGO ?= cargo
# One target directory for everything; set CARGO_TARGET_DIR to share it between checkouts.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test lint bench e2e crds deny tools binaries

help: ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: tools ## Play the walk-through live on real control planes, then stay up until Ctrl-C
	source scripts/tools && $(CARGO) build --workspace --bins
	source scripts/tools && "$(TARGET)/debug/meridian-demo"

test: tools ## Run every test, the ones on real control planes included
	source scripts/tools && $(CARGO) build --workspace --bins
	source scripts/tools && $(CARGO) test --workspace

e2e: tools ## Run only the tests on real control planes
	source scripts/tools && $(CARGO) build --workspace --bins
	source scripts/tools && $(CARGO) test --workspace --test testbed --test propagation --test discovery --test walkthrough

lint: ## Formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	source scripts/tools && $(CARGO) clippy --workspace --all-targets -- -D warnings

crds: ## Generate the CRDs of the chart from api/
	$(CARGO) run -q -p meridian-api --bin crds

bench: bench-latency bench-propagation ## Run every benchmark

bench-%: tools
	source scripts/tools && $(CARGO) build --release --workspace --bins
	source scripts/tools && "$(TARGET)/release/meridian-bench" $*

deny: ## Licences, sources and banned crates (needs cargo-deny; builds it when absent)
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

tools: ## Control plane and command line tools, built or fetched once into a cache
	scripts/control-plane >/dev/null
	scripts/tools >/dev/null
