# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv

# Tests start thousands of processes: none is to compile the package anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-kubernetes faults check bench clean

demo: $(VENV)/.demo
	$(VENV)/bin/colonnade run configs/digits.yaml

# Tests wait a good deal: a process more than this machine's cores
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
test: $(VENV)/.test
	$(VENV)/bin/colonnade run configs/digits.yaml
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile

# A whole Kubernetes node, built from source: as root, on Debian, minutes at the first time
test-kubernetes: $(VENV)/.test
	tests/k8s/build.sh
	tests/k8s/image.sh
	PYTHON=$(abspath $(VENV))/bin/python tests/k8s/test.sh

# Real processes killed, disks filled, bits flipped: FAULTS is the part that runs, and 1 is all of it
FAULTS ?= 1
faults: $(VENV)/.test
	FAULTS=$(FAULTS) $(VENV)/bin/python -m pytest tests/faults

check: $(VENV)/.test
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

# Ratios to the machine's limits and to what users write instead; minutes, and 2 GB of disk
bench: $(VENV)/.test
	$(VENV)/bin/python tests/benchmarks/kernel.py
	$(VENV)/bin/python tests/benchmarks/end_to_end.py
	$(VENV)/bin/python tests/benchmarks/scale.py
	$(VENV)/bin/python tests/benchmarks/columns.py
	$(VENV)/bin/python tests/benchmarks/factored.py
	$(VENV)/bin/python tests/benchmarks/verification.py
	$(VENV)/bin/python tests/benchmarks/store.py
	$(VENV)/bin/python tests/benchmarks/store.py --chunks 16MiB --pipelines zarr fused zarrs
	$(VENV)/bin/python tests/benchmarks/store.py --chunks 16MiB --codecs none lz4 zstd --bits all 12 8

clean:
	rm -rf .venv* out

# Python compiles what is imported when it is: to compile all of it takes half of the install
$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[dashboard]'
	touch $@

# Dependency groups came with pip 25.1
$(VENV)/.test: $(VENV)/.demo
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $@
