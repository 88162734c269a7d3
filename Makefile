SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
CONSTRAINTS := requirements/constraints.txt
WORKERS ?= 4
CODE := cloudmanager tests benchmarks scripts

# Tests of single modules: they start no service and attach no device.
FAST := tests/images tests/linux \
	$(addprefix tests/core/test_,$(addsuffix .py,backoff disk_locks errors fingerprint groupcommit model plugins \
	private_directory settings statedir store store_check workqueue)) \
	$(addprefix tests/api/test_,$(addsuffix .py,bad_input documentation guard listener openapi problems)) \
	$(addprefix tests/client/test_,$(addsuffix .py,answers claim mirror network)) \
	$(addprefix tests/client/deploy/test_,$(addsuffix .py,journal progress sample)) \
	$(addprefix tests/testing/test_,$(addsuffix .py,control faults wire)) \
	tests/providers/local tests/docs/test_architecture.py tests/docs/test_promises.py tests/benchmarks/test_page.py

# Container images often set it. Then every start of the service, and of each test worker, compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

# Anything more for pytest: make test ARGS="-k qemu -x"
ARGS ?=

.PHONY: help
help: ## this list
	@echo "make demo   shows the whole of it on this machine, in 20 seconds; make test   proves it"
	@echo
	@sed -En 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 16

.PHONY: demo
demo: packages-run .venv/.made ## a disk named over HTTP becomes an NBD address: watch it happen (CLOUD=gce|aws|azure)
	@$(BIN)/cloudmanager demo $(if $(CLOUD),--cloud $(CLOUD))

.PHONY: setup
setup: packages-run packages-test .venv/.made ## installs the Debian packages that are missing, and .venv with everything
	@:

.PHONY: test
test: setup ## the tests (ARGS="-k name" for some of them)
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-fast
test-fast: .venv/.made ## the inner loop, under a minute: what needs no service, no device and no cloud
	@$(BIN)/pytest -n $(WORKERS) $(FAST) $(ARGS)

.PHONY: test-slow
test-slow: setup packages-slow packages-bench ## the proofs that take minutes: the container is built and the demo runs in it
	@$(BIN)/pytest -m slow $(ARGS)

.PHONY: test-vm
test-vm: setup packages-slow ## of those, the one in which providers find disks that are hot-plugged into a virtual machine
	@$(BIN)/pytest -m slow tests/vm $(ARGS)

.PHONY: test-faults-long
test-faults-long: setup ## random operations and crashes for hours: FAULT_RUNS=1000 sequences
	@FAULT_RUNS=$${FAULT_RUNS:-1000} $(BIN)/pytest tests/faults --timeout 0 $(ARGS)

.PHONY: test-crashes
test-crashes: WORKERS := 3
test-crashes: setup ## the service is killed at every point of its work, in every cloud; thousands of random steps
	@$(BIN)/pytest -n $(WORKERS) -m slow tests/faults $(ARGS)

.PHONY: test-load
test-load: setup packages-slow ## 500 exports of 200 disks by 64 clients for ten minutes, with faults: a table (LOAD_SECONDS=600)
	@LOAD_SECONDS=$${LOAD_SECONDS:-600} $(BIN)/pytest -n 0 -m slow tests/load -s $(ARGS)

.PHONY: lint
lint: .venv/.made ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: .venv/.made ## ruff: mends what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: .venv/.made ## mypy, strict
	@$(BIN)/mypy

.PHONY: imports
imports: .venv/.made ## who may import whom
	@$(BIN)/lint-imports

.PHONY: check
check: lint types imports test ## everything that a change must pass

.PHONY: bench
bench: setup packages-slow packages-bench ## measures everything again, 40 minutes: yardstick and ours in one run (ARGS="control --quick")
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-access-methods
bench-access-methods: setup packages-slow ## writes the figures of docs/access-methods.md; the kernel's device is measured in a virtual machine
	@$(BIN)/python -m benchmarks.access_methods

.PHONY: performance
performance: .venv/.made ## writes docs/performance.md and its plots from benchmarks/results
	@$(BIN)/python -m benchmarks page

.PHONY: docs
docs: .venv/.made ## writes docs/configuration.md and docs/python-client.md from the code
	@$(BIN)/cloudmanager config reference > docs/.made && mv docs/.made docs/configuration.md
	@$(BIN)/python -m scripts.python_client_page > docs/.made && mv docs/.made docs/python-client.md

.PHONY: keep-schema
keep-schema: setup ## after a new migration: keeps a store of its schema, for the tests of later ones
	@$(BIN)/python -m tests.core.schemas.keep

.PHONY: container
container: .venv/.made ## builds the container image with buildah, podman or docker
	@scripts/build-container

.PHONY: lock
lock: ## pins the newest versions of everything in requirements/constraints.txt
	@scripts/lock $(CONSTRAINTS)

.PHONY: clean
clean: ## removes .venv and every cache
	@rm -rf .venv .cache .*_cache .hypothesis
	@find . \( -name __pycache__ -o -name .ruff_cache \) -prune -exec rm -r {} +

.PHONY: packages-run packages-test packages-slow packages-bench
packages-run packages-test packages-slow packages-bench: packages-%:
	@scripts/install-debian-packages $*

.venv/.made: pyproject.toml $(CONSTRAINTS) scripts/make-venv
	@scripts/make-venv .venv $(CONSTRAINTS)
	@touch $@
