"""Put what a run's report is made from into a folder that is ready to commit, without paths of this machine, and make the report there.

    python scenarios/accuracy/publish.py reports/accuracy/<stamp> reports/published/accuracy

The folder holds report.html, results.csv, scenario.yaml and every training run (training/), from which `report` makes the page again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml

from refta_profiler import report
from refta_profiler.errors import ScenarioError
from refta_profiler.run_folder import RunFolder
from refta_profiler.task.summary import Summary
from refta_profiler.whole_files import write_whole

KEPT = ("scenario.yaml", "results.csv", "environment.json", "closed_form.json", "plan.json", "training.json", "residuals.json")
HERE = "scenarios/accuracy"


def publish(run: Path, out: Path) -> None:
    """Nothing; `out` is made anew from the run."""
    folder = RunFolder.open(run)
    summary = Summary.of(folder)
    if summary is None or not all(one.chosen or one.failure for one in summary.methods) or not (run / "results.csv").is_file():
        raise ScenarioError(f"{run}: is not finished; go on with --resume {run}")
    place = str(Path(yaml.safe_load(folder.scenario_text())["model"]).parents[1])
    root = f"{Path(place).parents[1]}/"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    files = [run / name for name in KEPT if (run / name).exists()]
    names = [name for one in summary.shared["methods"] for name in one["files"]]
    files += [path for name in names if (path := run / "training" / name).exists()]
    for path in files:
        target = out / path.relative_to(run)
        target.parent.mkdir(exist_ok=True)
        write_whole(target, path.read_text(encoding="utf-8").replace(place, HERE).replace(root, ""))
    report.write(RunFolder(out), ("html",))
    print(f"{out}: {sum(path.stat().st_size for path in out.rglob('*') if path.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    try:
        publish(Path(sys.argv[1]), Path(sys.argv[2]))
    except (IndexError, ScenarioError) as fault:
        sys.exit(f"publish.py RUN OUT: {fault}")
