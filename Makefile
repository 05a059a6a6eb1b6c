# The project's tasks. Each makes what it needs from a bare clone, and is idempotent.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
MARK := $(VENV)/.installed

.PHONY: demo test check slow gpu format clean

demo: $(MARK)
	$(PY) -m refta_profiler run scenarios/quickstart.yaml

test: $(MARK)
	$(PY) -m pytest -m "not slow and not gpu" -q

check: $(MARK)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

slow: $(MARK)
	$(PY) -m pytest -m slow -q

gpu: $(MARK)
	$(PY) -m pytest -m gpu -q

format: $(MARK)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# torch first and pinned: an unpinned torch takes a CUDA build of several GB where a CPU build is at hand.
$(MARK): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
