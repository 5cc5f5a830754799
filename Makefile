# An index of commands. What each does stands in the script it calls.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help demo demo-cluster test test-api test-cluster fuzz lint fmt images generate test-enclave enclave-tools eif image-identity \
	unlock-run bench bench-ab bench-boot bench-gate bench-gate-write bench-quick bench-s4 bench-sign ctime verify-all

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 24

demo: ## a verified signature on this machine, without a cluster
	@hack/packages build
	@hack/demo

demo-cluster: ## the same on a real two-node Kubernetes cluster (root; about 10 minutes the first time)
	@hack/packages cluster
	@hack/demo-cluster

test: ## every test that needs no cluster, those against a real API server included
	@hack/packages test
	@hack/test

test-api: ## the published contract against a running signer: schemathesis, generated clients, example clients
	@hack/packages api
	@hack/test-api

test-cluster: ## the test cluster itself under faults (root)
	@hack/packages cluster
	@hack/cluster-test

.PHONY: conn-pool-test
conn-pool-test: ## the connections to the enclave: machines, races, faults on the wire, a short load
	@hack/packages build
	@hack/conn-pool-test

fuzz: SECONDS ?= 60
fuzz: ## fuzz every parser of bytes from outside, SECONDS=60 each
	@hack/packages build
	@hack/fuzz/run --seconds $(SECONDS)

test-enclave: ## the enclave as images that boot in QEMU, its memory scanned (tools: 5 minutes the first time)
	@hack/packages build enclave
	@hack/test-enclave

enclave-tools: ## QEMU's nitro-enclave, vsock and the enclave's kernel, built and tested (5 minutes once)
	@hack/packages build enclave
	@hack/qemu tools
	@hack/qemu self-test

# STRICT=--strict makes a benchmark fail whose target is not met.
STRICT ?=

# YARDSTICK="--yardstick FILE" puts a prototype's figures beside ours (docs/bench/README.md).
YARDSTICK ?=
release := cargo build --quiet --locked --release
bench_programs = $(release) --package sigil-dataplane && $(release) --package bench --features baseline --bin bench-baseline

bench: ## what a signature costs end to end, against the plain stack: target/bench/report.json (half an hour)
	@hack/packages bench
	@$(bench_programs)
	@cargo run --quiet --locked --release --package bench -- $(STRICT) full $(YARDSTICK)

bench-quick: ## the same with short runs, under 3 minutes
	@hack/packages bench
	@$(bench_programs)
	@cargo run --quiet --locked --release --package bench -- full --quick $(YARDSTICK)

bench-ab: ## two builds of the dataplane that take turns: make bench-ab A=PATH B=PATH
	@cargo run --quiet --locked --release --package bench -- ab --a "$(A)" --b "$(B)"

bench-boot: ## time to listening and to the first signature of booted images, medians of ten
	@hack/packages build enclave
	@hack/bench-boot $(STRICT)

bench-sign: ## CPU and system calls of a signature in the enclave, against libsecp256k1 alone
	@hack/packages bench
	@cargo run --quiet --locked --release --package bench -- $(STRICT) sign
	@cargo run --quiet --locked --release --package bench -- $(STRICT) system-calls

bench-s4: ## time and memory of keys in the cache
	@hack/packages build
	@cargo run --quiet --locked --release --package bench -- $(STRICT) cache

bench-gate: ## the instructions of a signature, by path, are what docs/bench/instructions.json says
	@hack/packages bench
	@$(release) --package sigil-dataplane
	@cargo run --quiet --locked --release --package bench -- callgrind --gate docs/bench/instructions.json
	@cargo run --quiet --locked --release --package bench -- instructions --gate docs/bench/instructions.json

bench-gate-write: ## commit to the instructions of a signature as they are now
	@hack/packages bench
	@$(release) --package sigil-dataplane
	@cargo run --quiet --locked --release --package bench -- callgrind --write docs/bench/instructions.json
	@cargo run --quiet --locked --release --package bench -- instructions --write docs/bench/instructions.json

ctime: ## no branch of the enclave but those listed, and no address, depends on a secret (valgrind; builds 4 minutes once)
	@hack/packages bench
	@hack/ctime/run

eif: ## the enclave's image without pins, in target/eif (its kernel is built the first time)
	@hack/packages build kernel
	@cargo xtask eif --out target/eif

image-identity: ## the same sources give the same image: builds it twice if it has changed
	@hack/packages build kernel
	@hack/image-identity

lint: ## formatting, clippy, house rules, licences, scripts
	@hack/packages lint
	@hack/lint

fmt: ## format the code
	@cargo fmt --all

images: ## OCI archives of the production binaries in target/images
	@hack/packages build
	@cargo xtask images --profile release --out target/images

generate: ## write the CRDs anew from crds/src, and the table of settings from dataplane/src
	@hack/packages build
	@cargo run --quiet --package sigil-crds --bin crdgen
	@cargo run --quiet --package sigil-dataplane -- config-reference >docs/configuration.md

ADMIN ?= http://127.0.0.1:9090
unlock-run: ## have a running dataplane retry its unlocks now; ADMIN=unix:/path or http://127.0.0.1:9090
	@hack/packages build
	@cargo run --quiet --locked --package sigil-dataplane -- ctl retry-unlocks --admin $(ADMIN)

verify-all: ## what takes too long for CI: the image built twice from nothing, fuzzing, benchmarks (hours)
	@hack/verify-all $(STRICT)
