# Entry points for people and for CI. Every target works on a fresh machine with git, make and a Rust toolchain.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Recorded evidence for tests; where it is missing, the tests that need it say so and the rest runs.
export VECTORS_DIR ?= $(if $(wildcard ../shared/vectors),$(abspath ../shared/vectors),)

DESTDIR ?= /usr/local/bin
DAEMONS := attestation-agent confidential-data-hub api-server-rest
BINARIES := $(DAEMONS) guestctl

# The variables by which the existing stack chooses a build. One build serves every platform, so they only
# have to be accepted; LIBC unset means the toolchain's own.
TEE_PLATFORM ?=
ATTESTER ?=
ARCH ?= $(shell uname -m)
LIBC ?= gnu

# What `make up` uses.
KBS_URL ?=
KBS_CERT ?=
TEE ?= snp

.PHONY: help setup build install demo up test lint unit deny advisories fuzz bench clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what building and testing needs (as root; else print the command)
	@.ci/setup

build: ## Build the release binaries
	cargo build --release --locked -p attestation-agent -p cdh -p api-server-rest -p guestctl
	@mkdir -p target/$(ARCH)-unknown-linux-$(LIBC)/release
	@for b in $(BINARIES); do ln -sf ../../release/$$b target/$(ARCH)-unknown-linux-$(LIBC)/release/$$b; done

install: build ## Install the binaries into DESTDIR (the folder itself)
	install -d $(DESTDIR)
	for b in $(BINARIES); do install -m 0755 target/release/$$b $(DESTDIR)/$$b; done

demo: setup ## Watch a secret being released, and three tampered machines being denied
	cargo build --locked --workspace --bins
	target/debug/stack demo

up: setup ## The same stack in the foreground. KBS_URL=, KBS_CERT=, TEE=snp|sample|host
	cargo build --locked --workspace --bins
	target/debug/stack up $(if $(KBS_URL),--kbs-url $(KBS_URL)) $(if $(KBS_CERT),--kbs-cert $(KBS_CERT)) --tee $(TEE)

test: setup lint deny unit ## Everything CI checks

lint: ## Formatting, clippy and rustdoc without a warning
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --lib --quiet

unit: ## Unit, property, vector and scenario tests
	cargo build --locked --workspace --bins
	cargo nextest run --locked --workspace

deny: ## Licences, bans and sources of all dependencies (offline)
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources

advisories: ## Known vulnerabilities of all dependencies (needs the advisory database)
	cargo deny check advisories

bench: setup ## Side-by-side measurements; table on the terminal, target/bench/summary.json
	cargo build --release --locked --workspace --bins
	target/release/bench

clean: ## Remove everything that was built
	cargo clean
