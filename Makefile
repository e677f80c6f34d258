# make benchmark   set up and run the main job
# make test        set up and run the fast tests
# Needs Python 3.11, 3.12 or 3.13 and make; nothing is compiled, nothing outside VENV is touched.
#   PYTHON=python3.12     another interpreter           VENV=/somewhere/venv   another place
#   TORCH="torch==..."    another build of PyTorch      ARGS="--quiet"         options of the main job or of pytest

VENV   ?= .venv
TORCH  ?= torch==2.13.0
ARGS   ?=
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python,\
            $(if $(shell $(p) -c 'import sys; print(int((3,11) <= sys.version_info[:2] <= (3,13)) or "")' 2>/dev/null),$(p))))

SHELL  := /bin/sh
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.ready
SOURCES := recbole_kd profiles analysis benchmarks tests run_benchmark.py
# Not compiled on installing: of these packages a tenth is ever imported, and that is compiled then. It must be
# kept, whatever the caller's environment says: else every process compiles torch again, ten seconds each.
export PYTHONDONTWRITEBYTECODE :=
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all:

.PHONY: help env benchmark studies-smoke test test-slow notebook lint types format lock clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 - \2/p' Makefile

env: $(STAMP) ## make the virtual environment from the lock

# torch first and with its own dependencies (on a GPU machine they are its CUDA libraries), held to the lock
# where the two overlap; everything else exactly as locked, without asking again what it depends on.
$(STAMP): requirements.lock requirements-nodeps.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	  echo "recbole_kd needs Python 3.11, 3.12 or 3.13$(if $(PYTHON), and '$(PYTHON)' is not one of them)." >&2; \
	  echo "Install one and name it: make $(or $(MAKECMDGOALS),benchmark) PYTHON=python3.12" >&2; exit 1; fi
	@echo "Environment: $(VENV) with $$($(PYTHON) --version); $(TORCH) and the locked packages (some minutes, once)"
	@$(PYTHON) -m venv $(VENV) || { echo "'$(PYTHON) -m venv' failed: Debian and Ubuntu keep it in python3-venv." >&2; exit 1; }
	@$(PIP) "$(TORCH)" -c requirements.lock
	@$(PIP) --no-deps -r requirements.lock -r requirements-nodeps.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

benchmark: $(STAMP) ## the main job: does a profile help SASRec, GRU4Rec, BERT4Rec on ml-100k?
	$(PY) run_benchmark.py run properties/experiment/quickstart.yaml $(ARGS)

studies-smoke: $(STAMP) ## every study on a small cut; pages in results/study_*-smoke
	$(PY) run_benchmark.py study all --smoke $(ARGS)

test: $(STAMP) ## fast tests, one process per core
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(STAMP) ## the long tests
	$(PY) -m pytest -m slow $(ARGS)

notebook: $(STAMP) ## run the example notebook from an empty results folder
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow tests/analysis/test_notebook.py $(ARGS)

lint: $(STAMP) ## ruff
	$(PY) -m ruff check $(SOURCES)

types: $(STAMP) ## mypy
	$(PY) -m mypy

format: $(STAMP) ## rewrite the layout with ruff
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

# Every pin for Python 3.11 to 3.13 and every platform in one file. torch is left out (see STAMP), and so is
# whatever only it brings, except the pure-python part below.
lock: $(STAMP) ## resolve requirements.lock anew from pyproject.toml
	$(PIP) uv==0.13.9
	@printf 'torch ; python_version < "3"\n' > $(VENV)/no-torch.txt
	@printf 'sympy>=1.13.3\nnetworkx>=2.5.1\nsetuptools>=77.0.3\n' > $(VENV)/torch-needs.in
	$(PY) -m uv pip compile pyproject.toml $(VENV)/torch-needs.in --all-extras --universal --python-version 3.11 \
	  --fork-strategy fewest --override $(VENV)/no-torch.txt --no-annotate --no-header --quiet -o $(VENV)/lock.txt $(ARGS)
	@{ echo "# Written by 'make lock' from pyproject.toml; install with --no-deps, after torch (see the Makefile)."; \
	   cat $(VENV)/lock.txt; } > requirements.lock.new && mv requirements.lock.new requirements.lock

clean: ## remove the environment and the tools' caches (results stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
