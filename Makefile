# Every target sets up .venv by itself, from constraints.txt, and repeats nothing that is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The published workloads and optima.json; the partition benchmark says where it looked when they are not there.
WORKLOADS ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check


.PHONY: docs
# Pages that are made of code: keys of job.yaml and cluster.yaml, the API, tables.
docs: $(VENV)/.dev
	$(BIN)/python -m pipecut.compiler.inputs.reference docs
	$(BIN)/python -m benchmarks.api_page
	$(BIN)/python -m benchmarks.tables

.PHONY: demo families test test-all test-browser test-versions check golden figures bench gpu clean

demo: $(VENV)/.examples
	$(BIN)/python -m examples.demo

test: check
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not browser"

test-all: check
	$(BIN)/python -m pytest -n auto --dist worksteal

# The page of `pipecut view` in Chromium; without one the tests are skipped, and say so.
test-browser: $(VENV)/.dev
	$(BIN)/python -m pytest -m browser tests/view

# A quarter of an hour on a machine with a GPU.
gpu: $(VENV)/.bench
	$(BIN)/python -m benchmarks.gpu

# Interpreters to try; by default those of python3.11 to python3.13 that are here.
PYTHONS ?=
test-versions: $(VENV)/.dev
	$(BIN)/python -m benchmarks.versions $(PYTHONS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Rewrite the golden texts under tests/golden; read the difference before you commit it.
golden: $(VENV)/.dev
	PIPECUT_GOLDEN=write $(BIN)/python -m pytest -n auto $$(grep -rl check_golden tests --include='test_*.py')

# The folder with models.txt and zoo.py; the benchmark says where it looked when it is not there.
ZOO ?= ../shared/zoo
# Three quarters of an hour on two cores; goes on where it was.
families: $(VENV)/.examples
	$(PIP) -c constraints.txt -e '.[examples,families]'
	$(BIN)/python -m benchmarks.families --zoo $(ZOO)
	$(BIN)/python -m benchmarks.tables

# The figures that do not depend on the machine, and the tables made of them, are what they were.
figures: $(VENV)/.examples
	$(BIN)/python -m benchmarks.compiles.models --check --fast
	$(BIN)/python -m benchmarks.tables --check

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.compiles.models
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.compiles.search
	$(BIN)/python -m benchmarks.compiles.scale
	$(BIN)/python -m benchmarks.steps.prediction
	$(BIN)/python -m benchmarks.steps.cuts
	$(BIN)/python -m benchmarks.transfers
	$(BIN)/python -m benchmarks.steps.engine
	$(BIN)/python -m benchmarks.steps.lengths
	$(BIN)/python -m benchmarks.steps.one_device
	$(BIN)/python -m benchmarks.faults.kinds
	$(BIN)/python -m benchmarks.fuzz.files
	$(BIN)/python -m benchmarks.onnx --again
	$(BIN)/python -m benchmarks.onnx.structure
	$(BIN)/python -m benchmarks.compiles.partition $(WORKLOADS)

clean:
	rm -rf $(VENV) demo-plan demo-cluster.yaml demo-report.json demo-trace.json demo-plan.html

# torch goes first: whatever depends on it then finds this build and pulls no other.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.examples: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[examples]'
	touch $@

$(VENV)/.bench: $(VENV)/.examples
	$(PIP) -c constraints.txt -e '.[examples,onnx,pictures]' onnxruntime
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[examples,onnx,dev]'
	touch $@ $(VENV)/.examples
