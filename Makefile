# What a person types. Everything else is cargo's business.
#
#   make demo          build, then show pods talking through the switch under policy (KEEP=1 leaves it running)
#   make test          every test; those that make network namespaces want root (or sudo)
#   make oracle        our reading of policy against Cilium's own engine (wants Go; PENSTOCK_CLUSTERS=100000 asks for more)
#   make vm            the tests of nodes on emulated machines with NICs and other kernels, with the shortcut and without (wants
#                      qemu-system-x86; half an hour; KERNELS="6.1 6.12 7.2", SHORTCUT="on off", TESTS="nics:: mtu::" choose)
#   make vm-setup      QEMU and what else that needs
#   make conformance   others' policy cases, simulated, as frames and between pods, where their corpus is at hand (root)
#   make lint          formatting, clippy, dependencies
#   make bench         the switch beside every peer this machine has (penstock-perf compare): a table and a page
#   make mutants       breaks the policy lookup and compiler in one place after another: does a test notice? (hours; cargo-mutants)
#   make setup         what the others need and this machine has not

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/local/go/bin

BIN := $(CURDIR)/target/release
ENGINE := $(CURDIR)/control/tests/cilium-engine
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Tests run as root, compilers do not: cargo is told to start test programs through sudo.
ifneq ($(SUDO),)
export CARGO_TARGET_$(shell uname -m | tr a-z A-Z)_UNKNOWN_LINUX_GNU_RUNNER := sudo -E
endif

.PHONY: help setup build demo demo-remove test oracle vm vm-setup vm-one conformance lint bench bench-smoke mutants clean

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@.ci/setup

build: setup
	cargo build --release --workspace --bins

demo: build
	$(SUDO) $(BIN)/penstock-perf demo $(if $(filter-out 0,$(KEEP)),--keep)

# Takes a demo down that was kept.
demo-remove:
	$(SUDO) $(BIN)/penstock-perf demo --remove

# The laboratory runs the programs themselves, so they are built first. Tests in tests/ make whole nodes: one at a time,
# or they measure each other. What works on a whole node works with the kernel carrying flows and without.
test:
	cargo build --workspace --bins
	cargo test --workspace --lib --bins
	cargo test --workspace --test '*' -- --test-threads=1
	PENSTOCK_SHORTCUT=off cargo test -q -p penstock-lab --test node --test lifecycle --test pods -- --test-threads=1
	cargo test --workspace --doc
	@$(MAKE) --no-print-directory oracle

# Cilium's engine is a Go program, and its modules come from the proxy, pinned by go.sum; the first build takes two minutes.
# Not everybody has Go or a network: then it is said, aloud, that nothing was compared.
oracle:
	@if ! command -v go >/dev/null; then \
	    echo "*** Go is absent: SKIPPED. Policy was not compared with Cilium's engine; install Go 1.26 or newer (go.dev/dl) ***"; \
	elif ! (cd $(ENGINE) && go list -deps . >/dev/null); then \
	    echo "*** Go finds not all modules (see above): SKIPPED. Policy was not compared with Cilium's engine ***"; \
	else \
	    set -e; mkdir -p target; \
	    (cd $(ENGINE) && go build -trimpath -ldflags='-s -w' -o $(CURDIR)/target/cilium-engine .); \
	    PENSTOCK_CILIUM_ENGINE=$(CURDIR)/target/cilium-engine \
	        cargo test -p penstock-control --test third_oracle -- --include-ignored --nocapture --test-threads=1; \
	fi

# The CPU is emulated too: minutes, and no figures. Release programs where there are some (they are brought up to date), else
# debug ones; the first line of each boot says which.
KERNELS := 6.1 6.12 7.2
SHORTCUT := on off
TESTS :=
PROFILE := $(if $(wildcard $(BIN)/penstock-vswitch),release,debug)
vm:
	cargo build $(if $(filter release,$(PROFILE)),--release) --workspace --bins
	failed=; for kernel in $(KERNELS); do for shortcut in $(SHORTCUT); do \
	    PENSTOCK_SHORTCUT=$$shortcut PENSTOCK_BIN_DIR=$(CURDIR)/target/$(PROFILE) perf/vm/run $$kernel $(TESTS) \
	        || failed+=" $$kernel ($$shortcut)"; \
	done; done; [ -z "$$failed" ] || { echo "not passed:$$failed"; exit 1; }

vm-setup:
	@perf/vm/setup

# What CI runs. Of the oldest kernel everything: it lacks the most, so every way to do without is gone there, and it differs most
# from whichever kernel runs CI itself. Of the newest the NICs: nothing else here binds one without copying. Release programs, which
# no other step tries. What there is no time for on a slow machine is named. Status 3 says that the machine cannot.
vm-one:
	@perf/vm/setup && cargo build --release $(PROGRAMS) --bins && export PENSTOCK_BIN_DIR=$(BIN) VM_LATE=named && \
	    perf/vm/run 6.1 && VM_SECONDS=300 perf/vm/run 7.2 nics:: kernels::; status=$$?; \
	if [ $$status = 3 ]; then \
	    echo "*** There is no emulated machine here (see above): NOT RUN. Other kernels and NIC drivers were not tried ***"; \
	else exit $$status; fi
PROGRAMS := $(addprefix -p penstock-,vswitch control cli cni)

# PENSTOCK_CORPUS names the folder of the cases where it is not ../shared/policy-corpus.
conformance:
	cargo build --workspace --bins
	PENSTOCK_CONFORMANCE=1 cargo test -q -p penstock-cli --test conformance
	cargo test -q -p penstock-lab --test conformance -- --ignored --nocapture

lint:
	cargo fmt --all --check
	cargo fmt --manifest-path perf/afxdp-loop/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v gofmt >/dev/null; then test -z "$$(gofmt -l $(ENGINE) | tee /dev/stderr)"; fi
	@if command -v cargo-deny >/dev/null; then \
	    cargo deny check licenses bans sources && \
	    cargo deny --log-level error --manifest-path perf/afxdp-loop/Cargo.toml check licenses bans sources; \
	else echo "cargo-deny is not installed: licences and sources were not checked ('cargo install cargo-deny')"; fi

# Peers that are absent are left out, and why is said. The `afxdp` crate's loop cannot be linked with ours, so it is a package of
# its own.
bench: build
	@if cargo build --release --locked --manifest-path perf/afxdp-loop/Cargo.toml --target-dir target/afxdp-loop; then \
	    cp target/afxdp-loop/release/penstock-afxdp-loop $(BIN)/; \
	else echo "the loop with the afxdp crate was not built (see above): it is left out"; fi
	@$(SUDO) $(BIN)/penstock-perf compare --save target/compare.json; verdict=$$?; \
	if [ -s target/compare.json ]; then \
	    $(BIN)/penstock-perf report target/compare.json --out target/compare.html && echo "target/compare.html has it as a page"; \
	fi; exit $$verdict

# Does the comparison work, with whatever peers are here? It measures nothing.
bench-smoke:
	cargo build --workspace --bins
	$(SUDO) target/debug/penstock-perf compare --smoke

# What is broken, and what nobody could notice: .cargo/mutants.toml. The random batches are smaller than usual.
mutants:
	@command -v cargo-mutants >/dev/null || { echo "cargo-mutants is not installed: 'cargo install cargo-mutants'"; exit 1; }
	PENSTOCK_CLUSTERS=100 cargo mutants

clean:
	cargo clean
