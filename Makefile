# make lab | test | course     (each of them installs what it needs; see README.md)
VENV        ?= .venv
ARGS        ?=
# Versions to install; `make test CONSTRAINTS=` takes the newest that pyproject.toml allows
CONSTRAINTS ?= constraints.txt

ifeq ($(OS),Windows_NT)
PYTHON      ?= python
BIN         := $(VENV)/Scripts
EXE         := .exe
else
PYTHON      ?= python3
BIN         := $(VENV)/bin
endif

INSTALL     := $(BIN)/python -m pip --disable-pip-version-check install -q $(addprefix -c ,$(CONSTRAINTS))
QUICK       := VIT_EDU_FAST=1 VIT_EDU_DATA=shapes VIT_EDU_PROGRESS=off VIT_EDU_MINE=off OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help lab test plain course lessons format clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' Makefile

lab: $(VENV)/.lab  ## open JupyterLab at the first lesson; ARGS="--no-browser --port 9999" go to Jupyter
	@$(BIN)/vit-edu lab $(ARGS)

test: $(VENV)/.dev  ## run everything: lint, unit tests, all notebooks (ARGS go to pytest)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(QUICK) $(BIN)/python -m pytest -n 2 $(ARGS)

plain: build/plain/.done  ## run the unit tests with the runtime requirements alone, in the locale C and without HOME
	@env -u HOME LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $(QUICK) build/plain/$(notdir $(BIN))/python -m pytest \
	    -o addopts= -p no:cacheprovider -q -rs tests $(ARGS)

course: $(VENV)/.dev  ## run every solution in full size and write the pages to build/course
	@$(BIN)/vit-edu course $(ARGS)

lessons: $(VENV)/.dev  ## for authors: refresh the stored answers in solutions/ and derive lessons/ from them
	@$(QUICK) $(BIN)/vit-edu derive --refresh

format: $(VENV)/.dev  ## for authors: format and fix what ruff can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build *.egg-info

$(BIN)/python$(EXE):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	    "vit_edu needs Python 3.11 or newer; %s is %d.%d. Try: make lab PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "No virtual environment could be made. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }

# A stamp is written only after an installation has succeeded, so that a broken one is tried again.
$(VENV)/.lab: pyproject.toml $(CONSTRAINTS) | $(BIN)/python$(EXE)
	$(INSTALL) -e '.[lab]'
	@touch $@

build/plain/.done: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -m venv build/plain
	build/plain/$(notdir $(BIN))/python -m pip --disable-pip-version-check install -q $(addprefix -c ,$(CONSTRAINTS)) -e . pytest
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python$(EXE)
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.lab
