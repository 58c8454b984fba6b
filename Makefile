# The commands of this repository. A fresh machine with Python 3.11 or newer needs two of them:
#
#   make demo     see it work: simulated devices, three subscribers, the books at the end
#   make test     everything but the slow tests
#
# Both make .venv and install what they need into it, once. ARGS="..." is passed on: make test ARGS="-k ring".

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO := schemas/usbcast_schemas/v1/usbcast.proto
PYTEST := $(BIN)/python -m pytest --no-header
ARGS ?=

# The first of these that is new enough; PYTHON=/path/to/python3.12 names another.
NAMES := python3 python3.14 python3.13 python3.12 python3.11
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(NAMES); do $$p -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-slow-ci test-all test-kernel test-kernel-ci chaos mutants check format proto bench regression clean

help:
	@echo "make demo         see it work, without any hardware"
	@echo "make test         the tests, but for the slow ones"
	@echo "make test-slow    the slow ones alone"
	@echo "make test-slow-ci  those of them that also pass on a busy machine, for CI"
	@echo "make test-all     all of them"
	@echo "make test-kernel  against a real kernel's USB stack, in QEMU"
	@echo "make test-kernel-ci  those of them for which CI has the time"
	@echo "make chaos        a random run of everything under faults, held against an account of its own; ARGS=\"--seconds 60 --seed 7\""
	@echo "make mutants      change single things in the pure modules and see whether their tests notice; ARGS=\"--module continuity\""
	@echo "make check        format, lint, types, and whether the generated code is current"
	@echo "make format       format the code"
	@echo "make proto        generate the Python code of the contract"
	@echo "make regression   whether the hot path does more work than it did: instructions, counted by valgrind"
	@echo "make bench        measure beside other products; ARGS=\"--mode full\" for figures worth keeping"
	@echo "make clean        remove .venv and what tools have left"

demo: $(STAMP)
	@$(BIN)/usbcast demo $(ARGS)

test: $(STAMP)
	@$(PYTEST) -m "not slow and not kernel" $(ARGS)

test-slow: $(STAMP)
	@$(PYTEST) -m "slow and not kernel" $(ARGS)

test-slow-ci: $(STAMP)
	@$(PYTEST) -m "slow and not kernel and not load_sensitive" $(ARGS)

test-all: $(STAMP)
	@$(PYTEST) -m "not kernel" $(ARGS)

# Where no guest can be made the tests skip themselves and say why. INSTALL=--install installs what making it needs, as root.
test-kernel test-kernel-ci: $(STAMP)
	@$(BIN)/python tests/kernel/build_guest.py --if-possible $(INSTALL)
	@$(PYTEST) tests/kernel -m "$(if $(filter %-ci,$@),kernel_ci,kernel)" $(ARGS)

chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos $(ARGS)

# Takes seconds for each change: it leaves the machine to others.
mutants: $(STAMP)
	@nice -n 19 $(BIN)/python -m tests.mutants $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff format --check --quiet . || { echo "make format would change the files above"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@made=$$(mktemp -d) && $(call GENERATE,$$made) && \
	  for file in usbcast_pb2.py usbcast_pb2.pyi; do \
	    cmp -s "$$made/usbcast_schemas/v1/$$file" "schemas/usbcast_schemas/v1/$$file" || \
	      { echo "$$file is not what the contract says: run make proto"; rm -r "$$made"; exit 1; }; \
	  done; rm -r "$$made"

format: $(STAMP)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

# protoc itself comes with the dev extra, pinned: the generated code then runs on that version's runtime and every later one.
GENERATE = $(BIN)/protoc -I schemas --python_out="$(1)" --pyi_out="$(1)" $(PROTO)

proto: $(STAMP)
	@$(call GENERATE,schemas)

regression: $(STAMP)
	@$(BIN)/python -m benchmarks.regression $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build schemas/usbcast_schemas/_native*.so

$(STAMP): pyproject.toml hatch_build.py $(wildcard schemas/core/* schemas/native/*)
	@test -n "$(PYTHON)" || { \
	  echo "usbcast needs Python 3.11 or newer, and here is $$(python3 --version 2>&1 || echo none):" \
	    "install one (Debian and Ubuntu: apt install python3.11 python3.11-venv; macOS: brew install python)," \
	    "or name it: make PYTHON=/path/to/python3.11"; \
	  exit 1; } >&2
	@"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { \
	  echo "usbcast needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1): name another with PYTHON=..."; \
	  exit 1; } >&2
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install what it lacks (Debian and Ubuntu:" \
	    "apt install python$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv)"; \
	  exit 1; } >&2
	@$(BIN)/python -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { \
	  echo "making $(VENV) with $(PYTHON), once; this takes a minute"; \
	  "$(PYTHON)" -m venv --clear $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
