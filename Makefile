# make run    everything from nothing to a model that answers
# make test   the whole test suite and the checks
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Carries the official token ranks, which a test reads; its code is never imported, so its
# dependencies are not wanted.
RANKS  := dashscope==2.0.2

# Archives that tests read where they lie. A mirror may lack them: their tests are skipped then.
SUITES := build/suites

# Other people's clients, each with an environment of its own: they cannot live in one.
CLIENTS := $(patsubst tests/clients/pins/%.txt,.clients/%/done,$(wildcard tests/clients/pins/*.txt))

.PHONY: run tiny test test-slow cluster check clients format docs lock clean help

help:
	@sed -n 's/^# make/make/p' Makefile

run: $(VENV)/run
	@$(BIN)/freehold pull
	@exec $(BIN)/freehold serve --temporary-key

# Two at a time: many tests wait for a process or a lock, and leave a core idle meanwhile. JOBS=0: one.
JOBS ?= 2
test: check $(SUITES)
	@$(BIN)/freehold pull
	$(BIN)/pytest -n $(JOBS) --dist loadgroup

# make test-slow   the suites that take minutes: real model, kill and flip, 64 clients
test-slow: $(VENV)/dev $(SUITES)
	@$(BIN)/freehold pull
	$(BIN)/pytest -m slow --timeout 3600

# make cluster     install vLLM (for processors) beside Freehold, in .venv-vllm
cluster:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip --disable-pip-version-check install --quiet --no-deps -r constraints-vllm.txt
	@echo "in freehold.toml: vllm_python = \"$(CURDIR)/.venv-vllm/bin/python\""

# make check  formatting, lint, types, import rules
check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make clients   get the clients that docs/clients.md tells of, and try them on the default model
clients: $(VENV)/dev $(CLIENTS) tests/clients/node/node_modules
	@$(BIN)/freehold pull
	$(BIN)/pytest tests/clients -m "slow or not slow" --timeout 3600

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make tiny   from nothing to a model of our own, trained here and served
tiny: $(VENV)/dev
	@$(BIN)/freehold train hearth --threads 2
	@exec $(BIN)/freehold serve hearth --temporary-key

# make docs   rewrite the parts of docs/ that are generated
docs: $(VENV)/dev
	$(BIN)/python docs/generate.py

# make lock   pin the newest versions that fit, in a fresh .venv
lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip --disable-pip-version-check install --quiet --editable '.[lab,dev]'
	@echo "# What \`make\` installs: exact versions of everything, made by \`make lock\`." > constraints.txt
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' >> constraints.txt

# make clean  remove .venv and .clients; models stay where they are
clean:
	rm -rf $(VENV) $(SUITES) .clients tests/clients/node/node_modules

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "freehold needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: pyproject.toml constraints.txt | $(VENV)/python
	@echo "installing Freehold into $(VENV) (once, a few minutes)"
	$(PIP) --editable .
	@touch $@ && rm -f $(VENV)/dev

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/python
	@echo "installing Freehold and its test tools into $(VENV) (once, a few minutes)"
	$(PIP) --editable '.[lab,dev]'
	$(PIP) --no-deps $(RANKS)
	@touch $@ $(VENV)/run

$(SUITES): tests/suites.txt | $(VENV)/dev
	@$(BIN)/pip --disable-pip-version-check download --quiet --no-deps --no-binary jsonschema \
	  --require-hashes --requirement tests/suites.txt --dest $@ && touch $@ || \
	  echo "could not fetch what tests/suites.txt names: the tests that read it are skipped"

.clients/%/done: tests/clients/pins/%.txt
	$(PYTHON) -m venv .clients/$*
	.clients/$*/bin/pip --disable-pip-version-check install --quiet --no-deps --requirement $<
	@touch $@

tests/clients/node/node_modules: tests/clients/node/package-lock.json
	@command -v npm > /dev/null || { echo "the client for Node needs npm: install Node.js 20 or newer"; exit 1; }
	cd tests/clients/node && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@
