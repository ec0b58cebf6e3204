# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test check clean

demo: $(VENV)/.demo
	$(VENV)/bin/colonnade run configs/digits.yaml

test: $(VENV)/.test
	$(VENV)/bin/colonnade run configs/digits.yaml
	$(VENV)/bin/python -m pytest

check: $(VENV)/.test
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

clean:
	rm -rf .venv* out

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dashboard]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
