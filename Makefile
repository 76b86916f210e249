# Two commands for a newcomer: `make demo` and `make test`. `make check` is what CI runs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SHARED ?= ../shared

.PHONY: demo test check format clips resume-check fuzz bench large clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Draw a short cartoon with sound, enlarge it four times, show one frame before and after.
demo: $(VENV)/installed
	$(BIN)/vidsr demo demo

test: $(VENV)/installed-test
	VIDSR_SHARED=$(SHARED) $(BIN)/python -m pytest

check: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: $(VENV)/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every real and awkward clip, whole, with the real network: minutes, so not part of `check`.
clips: $(VENV)/installed-test
	$(BIN)/python benchmarks/clips.py $(SHARED)/clips

# Every clip again: killed three times, gone on with, and held against a run that was not killed.
resume-check: $(VENV)/installed-test
	$(BIN)/python benchmarks/resume.py $(SHARED)/clips

# Two thousand damaged files through every reader; two hundred are part of `check`.
fuzz: $(VENV)/installed-test
	$(BIN)/python tests/fuzz.py --mutants 2000

bench: $(VENV)/installed-test
	$(BIN)/python benchmarks/pipeline.py $(SHARED)/clips/real

# Peak memory of an 8K picture at x2, in each format; fails above 3 GiB. Minutes.
large: $(VENV)/installed
	$(BIN)/python benchmarks/large_picture.py

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .ruff_cache .pytest_cache
