# Every target works from a clean clone: the environment is built on first use, kept in .venv, and rebuilt
# when setup.py or a constraints file changes. `make PYTHON=/path/to/python3.12 setup` picks the interpreter.

VENV := .venv
STAMP := $(VENV)/.installed
PARITY := $(VENV)/.parity
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.11 python3.13,\
	$(shell $(name) -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $(name))))
# Python 3.13 takes the versions locked for 3.12: both resolve alike.
LOCK := import sys; print("constraints-py3%d.txt" % min(sys.version_info[1], 12))
LOCKED = -c "$$($(BIN)/python -c '$(LOCK)')"
PIP = $(BIN)/python -m pip --disable-pip-version-check
EXTRAS = dev
test test-all $(PARITY): EXTRAS = dev,parity
# Installs .[EXTRAS]. uv takes less time than pip, and reads none of its configuration: that is handed over, pip's
# name of it first.
CONFIGURED = index-url=UV_DEFAULT_INDEX extra-index-url=UV_INDEX find-links=UV_FIND_LINKS \
	constraint=UV_CONSTRAINT trusted-host=UV_INSECURE_HOST cert=SSL_CERT_FILE
define INSTALL
found=$$($(PIP) config list); \
for pair in $(CONFIGURED); do \
	value=$$(printf '%s\n' "$$found" | sed -n "s/^[^=]*[.]$${pair%=*}='\(.*\)'$$/\1/p" | head -n 1 | sed 's/\\n/ /g'); \
	test -z "$$value" || export "$${pair#*=}=$$value"; \
done; \
export UV_INDEX_STRATEGY=unsafe-best-match VIRTUAL_ENV=$(VENV); \
{ $(PIP) install --quiet $(LOCKED) uv && $(BIN)/uv pip install --quiet --compile-bytecode $(LOCKED) -e '.[$(EXTRAS)]'; } || \
	$(PIP) install --quiet $(LOCKED) -e '.[$(EXTRAS)]'
endef

.DEFAULT_GOAL := help
.PHONY: help setup test test-all demo lint format clean

help:
	@echo "make setup   build .venv from the locked versions (Python 3.11, 3.12 or 3.13)"
	@echo "make demo    train PIT end to end on the embedded notes set, on this CPU"
	@echo "make test    linter, type checker, every test (on Python 3.11 against torch too: one more GB)"
	@echo "make test-all  the slow tests too, about a quarter of an hour more"
	@echo "make lint    linter and type checker"
	@echo "make format  rewrite the sources in the house format"
	@echo "make clean   remove .venv, caches and build leftovers (never runs/)"

setup: $(STAMP)

$(STAMP): setup.py constraints-py311.txt constraints-py312.txt
	@test -n "$(PYTHON)" || { echo "make setup needs Python 3.11, 3.12 or 3.13; none was found on PATH." \
		"Install one, or name it: make PYTHON=/path/to/python3.12 setup" >&2; exit 2; }
	@"$(PYTHON)" -c '$(SUPPORTED)' || { echo "make setup needs Python 3.11, 3.12 or 3.13; $(PYTHON) is" \
		"$$("$(PYTHON)" --version 2>&1). Name another: make PYTHON=/path/to/python3.12 setup" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@lock=$$($(BIN)/python -c '$(LOCK)'); \
		echo "Installing into $(VENV) from $$lock (a few minutes the first time)"
	@$(INSTALL)
	@touch $(STAMP)

$(PARITY): $(STAMP)
	@$(INSTALL)
	@touch $(PARITY)

test: lint $(PARITY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint $(PARITY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

demo: setup
	$(BIN)/python launch/tpu_run.py --stage=all --config=configs/tiny.py --workdir=runs/tiny

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
