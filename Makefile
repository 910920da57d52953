# Two commands: `make figures` and `make test`. Both make .venv and install what they need on first use.
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Relative, with a slash: nothing on PATH is picked up instead, and the folder's own name may hold spaces and quotes.
# Always `python -m`: the scripts beside it name that folder in their first line. Nothing of a user's site-packages.
RUN := PYTHONNOUSERSITE=1 JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python

# Two test files at a time, those with slow tests first; ARGS="-n 0 ..." for one, as a debugger wants it
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
BENCH_ARGS ?= --out benchmarks/results.md

.PHONY: figures test lab book classroom lint bench compare clear clean

figures: $(VENV)/.installed  ## reproduce the figures (digits, quick, seed 0); ARGS="--datasets breastmnist" for others
	$(RUN) run_all.py $(ARGS)

test: $(VENV)/.installed  ## unit, property and notebook tests; ARGS="-m 'not slow'" for the fast ones
	$(RUN) -m pytest $(SIDE_BY_SIDE) $(ARGS)

lab: $(VENV)/.installed  ## the tutorial in JupyterLab
	$(RUN) -m kr_utils.driver.lab $(ARGS)

book: $(VENV)/.installed  ## the executed notebooks as pages: book/index.html; ARGS="--dataset breastmnist --profile laptop"
	$(RUN) -m kr_utils.driver.book $(ARGS)

classroom: $(VENV)/.installed  ## a folder for a stick, with packages, results and book: docs/teaching.md
	$(RUN) -m kr_utils.driver.classroom $(ARGS)

lint: $(VENV)/.installed  ## format and lint, code and notebooks
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(VENV)/.installed  ## speed against what people would otherwise use; BENCH_ARGS=--quick for minutes
	$(RUN) benchmarks/run.py $(BENCH_ARGS)

compare: $(VENV)/.installed  ## budgets against each other, without a test split: benchmarks/budget.md
	$(RUN) benchmarks/compare.py $(ARGS)

clear: $(VENV)/.installed  ## remove the outputs of edited notebooks before committing them
	$(RUN) -m nbconvert --clear-output --inplace notebooks/*.ipynb

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs

$(VENV)/.installed: requirements.txt pyproject.toml
	@P="$(PYTHON)"; test ! -x $(BIN)/python || P=$(BIN)/python; $$P -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$P is older than 3.11; name a newer one: make PYTHON=python3.11 figures"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "error: $(PYTHON) has no venv; install it (Debian: apt-get install python3-venv) and try again"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_ARGS) -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -e .
	touch $@
