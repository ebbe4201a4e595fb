# Every target sets up .venv by itself on a fresh clone; `make` alone lists the targets.
#   PYTHON=python3.12   the interpreter to set up with      ARGS="-k circuit"   passed on to pytest
#   FAST=1              the heart of the tests              WORKERS=4           processes that test

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
FAST ?=
WORKERS ?= auto
BIN := $(VENV)/bin
READY := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo test other-processors examples lint types check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create .venv with the tested versions (the other targets do it too)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(0 if sys.version_info >= (3, 10) else "edgewise needs Python 3.10 or later; $(PYTHON) is " + v + ". Choose another: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv "$(VENV)" || { echo "$(PYTHON) cannot create a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	@"$(BIN)/python" -m pip install --quiet -c constraints.txt -e ".[test]"
	@touch "$@"

demo: $(READY) ## a real model's circuit, and how fine-tuning changed it, into demo-output/
	"$(BIN)/edgewise" run examples/demo.toml -o demo-output

# A worker begins with a stretch of neighbouring tests, so that what a file's tests share is made once.
PARALLEL := -n $(WORKERS) --dist worksteal
test: $(READY) ## all tests, with doctests, README code and examples
	"$(BIN)/python" -m pytest $(PARALLEL) $(if $(FAST),--fast) $(ARGS)

# A processor without AVX, and another number of threads, add the same numbers up in another order.
# There are as many workers as processors for their threads.
OLD := ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	OPENBLAS_CORETYPE=Nehalem OMP_NUM_THREADS=2
COMPUTING := tests/patching tests/discovery tests/edgewise/test_transplant.py
other-processors: $(READY) ## the heart of what computes, as other processors compute it
	$(OLD) "$(BIN)/python" -m pytest $(PARALLEL) --fast --fast-cases 4 $(COMPUTING) $(ARGS)

examples: $(READY) ## the examples alone
	"$(BIN)/python" -m pytest tests/test_examples.py $(ARGS)

lint: $(READY) ## ruff: rules and formatting
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

# mypy wants folders laid out as the packages are named, so it reads a tree of links.
TREE := build/types
types: $(READY) ## mypy, strict
	@rm -rf $(TREE) && mkdir -p $(TREE)/edgewise
	@ln -s "$(CURDIR)"/edgewise/* $(TREE)/edgewise/
	@for folder in graphs patching discovery visualize; do ln -s "$(CURDIR)/$$folder" $(TREE)/edgewise/; done
	MYPYPATH=$(TREE) "$(BIN)/mypy" -p edgewise

check: lint types test other-processors ## everything that CI runs

clean: ## remove what the targets made, .venv included
	rm -rf "$(VENV)" build dist demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
