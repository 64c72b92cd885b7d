# make demo    a tour on a small model            make lint    ruff and mypy
# make test    the whole test suite               make format  ruff's fixes and layout
# make dist    wheel and sdist, in an empty environment    make docs    the documentation as a site        make clean   remove the environments and caches
# make test-mace  the tests of MACE, in a separate environment: its package pins another e3nn than SevenNet's
# make test-orb   the tests of Orb, likewise: its dependencies pin an older rich than constraints.txt
# On a fresh machine each of them first makes .venv (PYTHON=python3.12 chooses the interpreter).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DELETE_ON_ERROR:
MACE := .venv-mace
ORB := .venv-orb

.PHONY: demo test test-mace test-orb dist lint format docs clean

demo: $(READY)
	$(BIN)/atomslim demo

# Two workers with one thread each: torch's own threads would only fight over the cores. Compiling takes minutes: a worker that
# is done takes over waiting tests.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-mace: $(MACE)/.ready
	OMP_NUM_THREADS=1 $(MACE)/bin/python -m pytest tests/families/mace

test-orb: $(ORB)/.ready
	OMP_NUM_THREADS=1 $(ORB)/bin/python -m pytest tests/families/orb

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Into site/; the tools are installed the first time, and the site needs nothing from the network. `.venv/bin/mkdocs serve` shows it while you write.
docs: $(READY)
	$(BIN)/python -c 'import mkdocstrings, material' 2>/dev/null || $(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and sdist; the wheel is installed into an empty environment, without dependencies, and inspected.
dist: $(READY)
	rm -rf dist build/empty
	$(BIN)/python -m pip install -q -c constraints.txt build hatchling
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install -q --no-deps dist/*.whl
	cd build && empty/bin/python ../tests/look_at_installed.py

# The stamp is written last, so that an interrupted set-up is resumed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "atomslim needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[data,labels,chgnet,sevennet,validate,dev]'
	touch $@

# Pinned as in constraints.txt, except e3nn.
$(MACE)/.ready: pyproject.toml constraints.txt
	test -x $(MACE)/bin/python || $(PYTHON) -m venv $(MACE)
	grep -v '^e3nn==' constraints.txt > $(MACE)/constraints.txt
	$(MACE)/bin/python -m pip install -c $(MACE)/constraints.txt -e '.[mace]' pytest hypothesis beartype
	touch $@

# Pinned as in constraints.txt, except rich.
$(ORB)/.ready: pyproject.toml constraints.txt
	test -x $(ORB)/bin/python || $(PYTHON) -m venv $(ORB)
	grep -v '^rich==' constraints.txt > $(ORB)/constraints.txt
	$(ORB)/bin/python -m pip install -c $(ORB)/constraints.txt -e '.[orb]' pytest hypothesis beartype
	touch $@

clean:
	rm -rf $(VENV) $(MACE) $(ORB) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
