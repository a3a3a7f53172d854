# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean

$(VENV)/.installed: pyproject.toml
	@echo "installing into $(VENV): about 5 GB, a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/delf-engine demo --out demo

test: $(VENV)/.installed
	# One thread a process: more would wait for each other. Those of tests that ask for more wait asleep.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --dist worksteal

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# The site, in docs/_build/html: runs the code of tutorials and notebooks; warnings are errors. Needs no network.
docs: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# Imports are declared, and what is declared is imported.
	$(BIN)/deptry delf_engine benchmarks
	# No dead code: none at all, and none that only tests call. Exceptions and their reasons stand in pyproject.toml.
	$(BIN)/vulture delf_engine benchmarks tests
	$(BIN)/vulture delf_engine benchmarks

clean:
	rm -rf $(VENV) demo out build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
