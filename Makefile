# Everything a newcomer needs: `make demo` to see it work, `make test` to know that it does.
# Both build .venv from constraints.txt on their first call; the demo set is small and holds no torch.

PYTHON ?= python3.11
# Who picks in the demo: `make demo POLICY=act` takes the trained policy.
POLICY ?= scripted
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RUN    := $(VENV)/.ready-to-run
TESTED := $(VENV)/.ready-to-test

# One thread a worker: two workers on two cores are faster than one with two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --jaxtyping-packages=vision,robot,export,beartype.beartype

.PHONY: help setup demo test test-slow test-long check format benchmark clean
help:
	@echo "make demo       set up, pick red cubes in the simulator, leave video and report in demo/"
	@echo "make test       set up, then format, lint, types and the default tests"
	@echo "make test-slow  the slow tests: trainings, whole episodes, real data"
	@echo "make test-long  more trainings: all thirty pairs of backbone and head, all heads on real images"
	@echo "make check      format, lint and types only"
	@echo "make benchmark  speed against peers, as ratios measured in one run"
	@echo "make setup      only build .venv (run time and simulator, no torch)"
	@echo "make clean      remove .venv, demo/ and caches"

setup: $(RUN)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[cpu,sim,robot]'
	@touch $@

$(TESTED): $(RUN)
	$(PIP) --editable '.[test]'
	@touch $@

demo: setup
	$(BIN)/handeye pick --policy $(POLICY) --episodes 5 --seed 7 --output demo --json demo/report.json

check: $(TESTED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: setup $(TESTED) check
	$(PYTEST) -m "not slow and not long and not gpu and not hardware"

test-slow: setup $(TESTED)
	$(PYTEST) -m "slow and not long and not gpu and not hardware"

test-long: setup $(TESTED)
	$(PYTEST) -m "long and not gpu and not hardware"

benchmark: setup $(TESTED)
	$(BIN)/python -m pytest tests/benchmarks --benchmarks -s

format: $(TESTED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .hypothesis
