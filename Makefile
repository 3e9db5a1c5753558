# `make` alone lists what there is to do.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON := .venv/bin/python
# Postfix's master, one of the peers of the suite, has to be started by root.
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env=CI)
# Over processes, in the order in which tests/conftest.py puts the tests, not by their number.
SPREAD := -n 2 --dist loadgroup --no-loadscope-reorder
# More arguments for pytest: make test PYTEST="tests/unit -k header"
PYTEST ?=

.PHONY: help run test nightly bench cards lint lock clean

help: ## list the targets (this is the default)
	@echo "Gatepost.  Targets:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## install what is missing, then run both halves until Ctrl-C, SMTP on 127.0.0.1:2525 (PORT=)
	@packaging/setup run
	@exec $(PYTHON) packaging/run/launch.py $(if $(PORT),--port $(PORT))

test: ## install what is missing, then lint, types and the whole suite with real peers
	@packaging/setup test
	@$(MAKE) --no-print-directory lint
	@exec $(ROOT) $(PYTHON) -m pytest $(SPREAD) $(PYTEST)

# One line for each test that has a long version: what makes it long.
NIGHTLY := \
  GATEPOST_ADDRESSES=500 \
  GATEPOST_CHECKS=500 \
  GATEPOST_CORPORA=1 \
  GATEPOST_CUTS=300 \
  GATEPOST_DIALOGUES=2000 \
  GATEPOST_DKIM_MAILS=1000 \
  GATEPOST_ENVELOPES=20 \
  GATEPOST_INJECTIONS=2000 \
  GATEPOST_KILLS=250 \
  GATEPOST_LARGE_MAILS=100 \
  GATEPOST_LOAD=5000 \
  GATEPOST_LOGINS=1000 \
  GATEPOST_MAILS=10000 \
  GATEPOST_MATRIX=200 \
  GATEPOST_MIME=3000 \
  GATEPOST_POINTS=1200 \
  GATEPOST_QUARANTINE_POINTS=40 \
  GATEPOST_RECEPTIONS=1000 \
  GATEPOST_SCALE=1000000 \
  GATEPOST_SCREENS=300 \
  GATEPOST_SEED=$(shell date +%s) \
  GATEPOST_SIGNED=2000 \
  GATEPOST_TABLES=2000 \
  GATEPOST_TABLE_LINES=1000000 \
  GATEPOST_WEATHER=1000

nightly: ## the whole suite, with the long versions of its tests
	@packaging/setup test
	@exec $(ROOT) env $(NIGHTLY) $(PYTHON) -m pytest $(SPREAD) $(PYTEST)

lint: ## ruff and mypy --strict
	@packaging/setup test
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy packaging/run/*.py packaging/commands.py packaging/cards.py

# What `make bench` runs, the table of the whole road first; BENCH=--quick is that alone, in two minutes.
BENCH ?=
BENCHES := road memory scaling filters hosts store

bench: ## measure against Postfix and C milters: 40 minutes (BENCH=--quick: two)
	@packaging/setup test
	@if [ -n "$(BENCH)" ]; then exec $(ROOT) $(PYTHON) -m tests.bench.road $(BENCH); fi; \
	for each in $(BENCHES); do echo "== $$each"; $(ROOT) $(PYTHON) -m tests.bench.$$each || exit 1; done; \
	for each in "" --filters; do $(ROOT) $(PYTHON) -m tests.bench.calls $$each || exit 1; done

cards: ## grade milters and MTAs with milterlab: writes docs/lab/cards anew
	@packaging/setup test
	@exec $(ROOT) $(PYTHON) packaging/cards.py

lock: ## write the lock files anew from pyproject.toml (make lock UPGRADE=--upgrade)
	@packaging/lock $(UPGRADE)

clean: ## remove what make made, but not var/: the mail, queue and keys of make run
	$(ROOT) rm -rf .venv dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	$(ROOT) find milterd smtpgw tests packaging -name __pycache__ -type d -prune -exec rm -rf {} +
