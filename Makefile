# make demo: set up and run the quickstart.  make test: set up and run the tests.
# make check: lint, types, and whether docs/results.md is what benchmarks/results says.
# make docs: the site, in site/, and the tests of what it says.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test slow docs check clean

demo: $(VENV)/installed
	$(VENV)/bin/lightning run recipes/quickstart.py

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n 2 -m "not slow" --durations=30 --durations-min=5

slow: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n 2 -m slow

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	$(VENV)/bin/python -m pytest -q -n 2 tests/docs tests/cli/test_demo.py

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -q tests/test_imports.py
	$(VENV)/bin/python benchmarks/make_results.py --check

clean:
	rm -rf $(VENV) build dist *.egg-info

# The stamps make a second call start at once; a changed pyproject.toml installs again.
# Where venv fails (Debian wants python3-venv), half a .venv would pass for a whole one the next time.
$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or later is needed: make PYTHON=...')"
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,docs,demo]"
	touch $@
