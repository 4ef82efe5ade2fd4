# Two commands do everything on a machine with only Python (3.11 to 3.13) and make:
#
#   make book    build the book (installs into .venv first; FULL=1 make book for the full mode)
#   make test    run the tests
#
# Another Python: make PYTHON=python3.12 book. Without make: see "Install" in README.md.

ifeq ($(OS),Windows_NT)
PYTHON ?= python
VENV_PYTHON := .venv\Scripts\python.exe
else
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
endif

ifeq ($(FULL),1)
export MOIRELIB_FAST := 0
else
export MOIRELIB_FAST ?= 1
endif

# Threads that wait for each other sleep: spinning, they would take the time of the one they wait for on busy cores.
export OMP_WAIT_POLICY ?= PASSIVE

# Real micrographs, where they lie beside the checkout.
ifneq ($(wildcard ../shared/data/real/README.md),)
export MOIRELIB_DATA ?= $(abspath ../shared/data/real)
endif

.DEFAULT_GOAL := help
.PHONY: help env env-browser book test test-slow test-fuzz lint format pages scores bench-book bench-busy bench-optics bench-layers bench-families bench-movies bench-precision bench-science notebooks clean distclean

help:  ## list the targets
	@$(PYTHON) -c "import re; [print('make %-13s %s' % m) for m in re.findall(r'^([\w-]+):.*?## (.*)', open('Makefile').read(), re.M)]"

# Installs once; the script returns at once when .venv matches pyproject.toml and constraints.txt.
env:
	@$(PYTHON) tools/make_env.py --extras book,test

env-browser: env
	@$(PYTHON) tools/make_env.py --extras browser

book: env  ## run every chapter and render the book into _build/html (FULL=1: full mode)
	@$(VENV_PYTHON) tools/build_book.py

# Two processes of one thread each: most tests are too small for threads.
test: export OMP_NUM_THREADS ?= 1
test: env  ## run the tests, but for those marked slow
	@$(VENV_PYTHON) -m pytest -n 2 --dist loadfile

# Two threads, as on the machines the times are stated for; more only compete with Dask's workers.
test-slow test-fuzz: export OMP_NUM_THREADS ?= 2
test-slow: env  ## run the tests marked slow
	@$(VENV_PYTHON) -m pytest -m slow

test-fuzz: env  ## read 2,000 damaged files of every format (FUZZ=20000 make test-fuzz for more)
	@$(VENV_PYTHON) -m pytest tests/test_fuzz.py -m fuzz

lint: env  ## check style, formatting, which package imports which, and types
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -c "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
	@$(VENV_PYTHON) -m mypy

format: env  ## put code into the project's format
	@$(VENV_PYTHON) -m ruff check --fix .
	@$(VENV_PYTHON) -m ruff format .

pages: env-browser  ## open every built page in headless Chromium and check it
	@$(VENV_PYTHON) tools/check_pages.py

scores: env  ## score the shipped weights: sample, held-out simulations, real frame
	@$(VENV_PYTHON) benchmarks/scores.py

notebooks: env  ## write the chapters as notebooks for Colab and Binder
	@$(VENV_PYTHON) tools/make_notebooks.py

# A benchmark is one line here and one script in benchmarks/. QUICK=1 in front takes a smaller sample.
bench-busy: env  ## how much longer a decomposition takes beside busy programs
	@$(VENV_PYTHON) benchmarks/busy.py

bench-book: env  ## the last build's time and memory against the book's budgets (no QUICK)
	@$(VENV_PYTHON) benchmarks/book.py

bench-optics: export OMP_NUM_THREADS ?= 2
bench-optics: env  ## composed images against full-atom multislice, noise against a real frame, speed
	@$(VENV_PYTHON) benchmarks/optics.py

# The full run trains the networks it compares with where they are missing: hours. It writes the book's table.
bench-layers: env  ## the two layers told apart: moirelib and other methods on the same scenes
ifeq ($(QUICK),1)
	@$(VENV_PYTHON) benchmarks/compare_methods.py
else
	@$(VENV_PYTHON) benchmarks/compare_methods.py --out data/bench_layers.json
endif

bench-families: env  ## layers told apart where it is hard: other spacings and sizes, small twists, grains, three layers
	@$(VENV_PYTHON) benchmarks/layers_told_apart.py

bench-movies: export OMP_NUM_THREADS ?= 2
bench-movies: env  ## moving movies against still ones, in two simulators; how the analysis keeps pace
	@$(VENV_PYTHON) benchmarks/movies.py

bench-precision: export OMP_NUM_THREADS ?= 2
bench-precision: env  ## sizes and places beside other methods and the Cramér-Rao bound, in two simulators
	@$(VENV_PYTHON) benchmarks/precision.py

bench-science: export OMP_NUM_THREADS ?= 2
bench-science: env  ## vibrations, order, defects and growth against simulations of known truth
	@$(VENV_PYTHON) benchmarks/science.py

# Keeps what `make bench-layers` trained and scored: that took hours.
clean:  ## remove the built book and its execution cache
	@$(PYTHON) -c "import pathlib, shutil; [shutil.rmtree(p, ignore_errors=True) for p in pathlib.Path('_build').glob('*') if p.name != 'bench-layers']"

distclean: clean  ## remove the environment and the benchmark's results as well
	@$(PYTHON) -c "import shutil; [shutil.rmtree(p, ignore_errors=True) for p in ('.venv', '_build')]"
