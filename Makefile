# tickfold needs git, Python 3.11 or newer, and make. Everything else goes into .venv, pinned and hash-checked.
# Another interpreter than python3: make PYTHON=python3.12 install

PYTHON ?= python3

# venv and pip are silent unless something is wrong; what takes long says so first.
export PIP_DISABLE_PIP_VERSION_CHECK = 1
PIP := -m pip --quiet install
say := @printf '%s\n'

VENV := .venv
BENCH_VENV := .venv-bench
PEERS_VENV := .venv-peers
BIN := $(VENV)/bin

# A stamp is newer than the lock file that was installed from, so that a second call does nothing. `run` and `replay` need less
# than `test`: they are content with the light stamp, and take the full one where there is one.
RUN_STAMP := $(VENV)/.run-installed
DEV_STAMP := $(VENV)/.dev-installed
BENCH_STAMP := $(BENCH_VENV)/.bench-installed
PEERS_STAMP := $(PEERS_VENV)/.peers-installed
READY := $(if $(wildcard $(DEV_STAMP)),$(DEV_STAMP),$(RUN_STAMP))

.DEFAULT_GOAL := help
.PHONY: install run replay test soak bench lint lock browser clean help
.NOTPARALLEL:

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(DEV_STAMP)  ## make .venv with all that running and testing need
	$(say) 'tickfold is installed: $(BIN)/tickfold'

run: $(READY)  ## start the daemon on the built-in recording: no account, key, server or network
	@$(BIN)/tickfold run

replay: $(READY)  ## fold the built-in recording as fast as it goes, and print its digest
	@$(BIN)/tickfold replay

# A module of tests stays on one processor, so that what it shares (a daemon, a browser) is made once. More than eight would get in
# one another's way: many tests start a daemon and its exchange. In the order of the folders: the longest modules have few tests, and
# would come last.
test: lint browser  ## format, lint, types and tests: what has to pass before a commit
	$(say) '== tests'
	@$(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder

soak: $(DEV_STAMP)  ## the long variants of tests: 200 kills, long outages; half an hour or so
	@$(BIN)/pytest -m soak

# The page is tested in a real browser, which no package index has: it comes from the system.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	    if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	        echo 'installing chromium, in which the page is tested'; \
	        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } >/dev/null; \
	    else \
	        echo 'the page is tested in a browser, and there is no chromium or google-chrome: on Debian and Ubuntu, sudo apt install chromium' >&2; \
	        exit 1; \
	    fi; }

lint: $(DEV_STAMP)  ## format, lint and types, without the tests
	$(say) '== format'
	@$(BIN)/ruff format --check --quiet --output-format concise . || { printf '%s\n' 'to mend it: $(BIN)/ruff format .'; exit 1; }
	$(say) '== lint'
	@$(BIN)/ruff check --quiet --output-format concise .
	$(say) '== types'
	@$(BIN)/mypy

bench: $(BENCH_STAMP)  ## install the peers in .venv-bench and .venv-peers, run all benchmarks, write benchmarks/results/
	@$(MAKE) --no-print-directory $(PEERS_STAMP) || echo 'cryptofeed and ccxt cannot be installed: bench_decode and bench_transport run without them' >&2
	@mkdir -p benchmarks/results
	@failed=''; \
	for file in benchmarks/bench_*.py; do \
	    [ -e "$$file" ] || { echo 'there is no benchmarks/bench_*.py' >&2; exit 1; }; \
	    name=$$(basename "$$file" .py); \
	    printf '== %s\n' "$$name"; \
	    venv=$(BENCH_VENV); \
	    case "$$name" in bench_decode|bench_transport) [ ! -e $(PEERS_STAMP) ] || venv=$(PEERS_VENV) ;; esac; \
	    "$$venv/bin/python" -m "benchmarks.$$name" || failed="$$failed $$name"; \
	done; \
	[ -z "$$failed" ] || { printf 'failed:%s\n' "$$failed" >&2; exit 1; }

# Keeps the versions that are locked already; UPGRADE=1 takes the newest.
COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes $(if $(UPGRADE),--upgrade) \
	--no-emit-index-url --no-emit-find-links --annotation-style line --custom-compile-command 'make lock'

lock: $(DEV_STAMP)  ## pin again what pyproject.toml and requirements/*.in ask for (UPGRADE=1: the newest)
	@$(COMPILE) pyproject.toml requirements/run.in --output-file requirements/run.txt
	@$(COMPILE) pyproject.toml requirements/dev.in --constraint requirements/run.txt --output-file requirements/dev.txt
	@$(COMPILE) pyproject.toml requirements/bench.in --output-file requirements/bench.txt
	@$(COMPILE) pyproject.toml requirements/peers.in --output-file requirements/peers.txt
	$(say) 'wrote requirements/run.txt, dev.txt, bench.txt and peers.txt; make install takes them up'

clean:  ## remove the virtual environments, caches and build output
	rm -rf $(VENV) $(BENCH_VENV) $(PEERS_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(BIN)/python
	$(say) 'installing what running needs into $(VENV)'
	@$(BIN)/python $(PIP) --require-hashes -r requirements/run.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(say) 'installing what running and testing need into $(VENV) (a minute or so the first time)'
	@$(BIN)/python $(PIP) --require-hashes -r requirements/dev.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $(RUN_STAMP) $@

$(BENCH_STAMP): requirements/bench.txt pyproject.toml | $(BENCH_VENV)/bin/python
	$(say) 'installing the peers into $(BENCH_VENV) (a minute or so the first time)'
	@$(BENCH_VENV)/bin/python $(PIP) --require-hashes -r requirements/bench.txt
	@$(BENCH_VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(PEERS_STAMP): requirements/peers.txt pyproject.toml | $(PEERS_VENV)/bin/python
	$(say) 'installing cryptofeed and ccxt into $(PEERS_VENV) (cryptofeed is compiled: a minute or two the first time)'
	@$(PEERS_VENV)/bin/python $(PIP) --require-hashes -r requirements/peers.txt
	@$(PEERS_VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# Debian's python3 comes without ensurepip; a venv made with it has no pip, so that is asked before, not found out after.
$(BIN)/python $(BENCH_VENV)/bin/python $(PEERS_VENV)/bin/python:
	@command -v '$(PYTHON)' >/dev/null || { \
	    echo 'tickfold needs Python 3.11 or newer, but there is no $(PYTHON). If yours has another name: make PYTHON=python3.12 ...' >&2; \
	    exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    printf 'tickfold needs Python 3.11 or newer, but $(PYTHON) is %s. If a newer one is installed: make PYTHON=python3.12 ...\n' \
	        "$$('$(PYTHON)' -c 'import platform; print(platform.python_version())')" >&2; \
	    exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '$(PYTHON) cannot make virtual environments: ensurepip is missing. On Debian and Ubuntu: apt install python3-venv' >&2; \
	    exit 1; }
	$(say) 'making $(@:/bin/python=)'
	@'$(PYTHON)' -m venv --clear $(@:/bin/python=) || { rm -rf $(@:/bin/python=); exit 1; }
