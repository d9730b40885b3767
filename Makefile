# Everything a newcomer needs: `make demo` to see it work, `make test` to know that it does.
# Both build .venv from constraints.txt on their first call; the demo set is small and holds no torch.

# The Python of .venv, 3.11 to 3.13: the first of python3, python3.13, 3.12 and 3.11 that will do, or the one named here.
PYTHON ?=
export PYTHON
# Who picks in the demo: `make demo POLICY=act` takes the trained policy.
POLICY ?= scripted
BIN    := .venv/bin

# One thread a worker: two workers on two cores are faster than one with two threads. Each begins with neighbouring
# files (worksteal), so what a file's tests share is made once. Bytecode is kept: the tests start many processes.
WORKERS ?= $(shell .ci/workers)
PYTEST   = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
           --jaxtyping-packages=handeye.vision,handeye.robot,handeye.export,beartype.beartype
# Says how long: name and minutes of one core. Workers share them.
FORECAST = @echo "$(1): about $$(( $(2) / $(WORKERS) + 1 )) minutes with $(WORKERS) workers"

.PHONY: help setup setup-test demo test test-slow test-long style check format benchmark clean
.NOTPARALLEL:
help:
	@echo "make demo       set up, pick red cubes in the simulator, leave video and report in demo/"
	@echo "make test       set up, then format, lint, types and the default tests"
	@echo "make test-slow  the slow tests: trainings, whole episodes, real data"
	@echo "make test-long  more trainings: all thirty pairs of backbone and head, all heads on real images"
	@echo "make check      format, lint, types and imports of the tests only"
	@echo "make benchmark  speed against peers, as ratios measured in one run"
	@echo "make setup      only build .venv (run time and simulator, no torch)"
	@echo "make clean      remove .venv, demo/ and caches"
	@echo "Python is found, or named: make PYTHON=python3.12 ...; so is the number of workers: make WORKERS=4 ..."

setup:
	@.ci/set-up run

setup-test:
	@.ci/set-up test

demo: setup
	@echo "five picks, each filmed: about a minute"
	$(BIN)/handeye pick --policy $(POLICY) --episodes 5 --seed 7 --output demo --json demo/report.json

style: setup-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

check: style
	@echo "do all test files import what exists?"
	@mkdir -p .pytest_cache
	@$(BIN)/python -m pytest --collect-only -qq > .pytest_cache/collection.txt || { tail -n 40 .pytest_cache/collection.txt; exit 1; }

# The tests themselves import every file: no need to do so twice.
test: style
	$(call FORECAST,default tests,16)
	$(PYTEST) -m "not slow and not long and not gpu and not hardware"

test-slow: setup-test
	$(call FORECAST,slow tests,22)
	$(PYTEST) -m "slow and not long and not gpu and not hardware"

test-long: setup-test
	@echo "long tests: hours"
	$(PYTEST) -m "long and not gpu and not hardware"

benchmark: setup-test
	$(BIN)/python -m pytest tests/benchmarks --benchmarks -s

format: setup-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis
