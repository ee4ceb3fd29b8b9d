# `make quickstart`: install, build a dataset, distil from its bundled teacher, clone, evaluate.   `make test`: every check.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test wheel light docs clean

quickstart: $(VENV)/.installed
	$(BIN)/minari-obd run recipes/quickstart.toml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest

# An sdist, a wheel built from it, and proof that the wheel alone does its work: it is installed in a new environment,
# without extras and without d3rlpy, and reads there what the full install has written.
wheel: $(VENV)/.installed-dev
	rm -rf dist $(VENV)-light
	$(BIN)/python -m build
	$(PYTHON) -m venv $(VENV)-light
	$(VENV)-light/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	BIN=$(BIN) LIGHT=$(VENV)-light/bin sh tests/light/run.sh

light: wheel

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W --keep-going docs docs/_build

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[all]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	# It states a newer Gymnasium than d3rlpy pins; its mazes work with both.
	$(INSTALL) --no-deps gymnasium-robotics==1.4.2 pettingzoo
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-light build dist docs/_build
