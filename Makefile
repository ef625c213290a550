# Everything sets itself up; all that is needed is Python >= 3.11 and make.

SHELL := /bin/sh
.DEFAULT_GOAL := help
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE # compiling scikit-learn anew in every process takes longer than training

# The first Python that will do. Debian keeps venv in a package of its own.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
SEEDS ?= 2000
waiting := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n + n / 2))) # the wire tests wait for servers half of the time
setup = $(if $(PYTHON),$(PYTHON) tools/setup.py,$(error Python >= 3.11 with venv is needed (Debian, Ubuntu: \
	apt-get install python3 python3-venv); or say which: make PYTHON=/path/to/python3.12))
py = .venv/bin/python

.PHONY: help demo example test test-wire test-bounded test-nightly sbom lint format lock schemas bench clean

help:
	@echo "make demo          the whole loop on a year of flights; make demo ARGS=--ask waits for your approval"
	@echo "make example       NAME=dryers or NAME=haze: the whole loop on that example of examples/"
	@echo "make test          what needs no server beyond Python"
	@echo "make test-wire     against Azurite, the AMQP peer and the other local servers"
	@echo "make test-bounded  a bounded share of what proves docs/guarantees.md: fuzzing, kills, load, a full disk, faults,"
	@echo "                   2,000 histories by chance (SEEDS=N), every state of two runs"
	@echo "make test-nightly  the long ones"
	@echo "make sbom          what driftloop is made of (CycloneDX), and what is known to be wrong with it"
	@echo "make lint          ruff, mypy, import-linter"
	@echo "make format        what ruff can put right by itself"
	@echo "make lock          pin requirements anew"
	@echo "make schemas       docs/schemas/, docs/reference/, the OpenAPI document and the diagram anew"
	@echo "make bench         the benchmarks of bench/"
	@echo "make clean         remove .venv and build/"

demo:
	@$(setup) demo
	@.venv/bin/driftloop demo $(ARGS)

example:
	@test -f "examples/$(NAME)/data.py" || { echo "make example NAME=dryers, or NAME=haze" >&2; exit 2; }
	@$(setup) demo
	@$(py) examples/$(NAME)/data.py build/$(NAME)/table.parquet
	@.venv/bin/driftloop replay --loop examples/$(NAME)/loop.yaml --fleet examples/$(NAME)/fleet.yaml \
		--data build/$(NAME)/table.parquet --state build/$(NAME)/state --json build/$(NAME)/summary.json --approve $(ARGS)

test:
	@$(setup) test
	@$(py) -m pytest -m "not wire and not nightly" -n logical --dist worksteal $(ARGS)

test-wire:
	@$(setup) wire
	@$(py) -m pytest -m "wire and not nightly" -n $(waiting) --dist loadfile $(ARGS) || [ $$? -eq 5 ] # 5: there are none

test-bounded:
	@$(setup) test
	@$(py) -m bench fuzz disk chaos soak load --cases 20000 --kills 20 --minutes 0.6 --seconds 15 $(ARGS)
	@$(py) -m bench.schedules --seeds $(SEEDS) --acts 15
	@$(py) -m bench.explore --workers 2 --runs 2 --sites 3 --people 2 --crashes 1

sbom:
	@$(setup) test
	@$(py) tools/sbom.py

test-nightly:
	@$(setup) wire
	@$(py) -m pytest -m nightly $(ARGS) || [ $$? -eq 5 ]

lint:
	@$(setup) test
	$(py) -m ruff check .
	$(py) -m ruff format --check .
	$(py) -m mypy
	.venv/bin/lint-imports

format:
	@$(setup) test
	$(py) -m ruff check --fix .
	$(py) -m ruff format .

lock:
	@$(setup) test
	$(py) tools/lock.py

schemas:
	@$(setup) test
	$(py) -m cli.validate --schemas docs/schemas
	$(py) tools/openapi.py
	$(py) tools/reference.py
	$(py) -m cli.graph

bench:
	@$(setup) test
	@$(py) -m bench $(ARGS)

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
