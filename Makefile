# Everything a contributor types. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help demo build image test test-full test-placement e2e check bench clean

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## set up, build, and drive one volume through its whole life on a scratch pool (as root)
	@scripts/setup demo
	cargo build --release --locked
	target/release/wharf demo

build: ## build the release binary
	cargo build --release --locked

image: ## build the container image, as an archive that needs no registry: build/image/wharf.tar
	cargo build --release --locked
	deploy/image/build

test: ## run every tier of tests (as root, below 45 minutes)
	@scripts/setup test
	@scripts/test

test-full: ## run every tier longer: more rounds, random seeds
	@scripts/setup test
	@WHARF_TEST_FULL=1 scripts/test

test-placement: ## test where a cluster places volumes, on a real control plane without kubelets (as root)
	@scripts/setup placement
	@scripts/test placement

e2e: ## test on a real node: kubelet, containerd, the chart with the image built here, pods (as root)
	@scripts/setup e2e
	@scripts/test e2e

check: ## format, clippy, rustdoc, layers, dependencies: what a change has to pass first
	@scripts/test lint

bench: ## measure (as root); prints figures, judges nothing
	@scripts/setup test
	cargo bench --locked --bench lifecycle

clean: ## remove what was built, the tools of scripts/setup included
	cargo clean
	rm -rf build
