"""Own code from the command line, in a folder that is not the checkout: a run with its report, the refusal, and the run gone on with."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from user_module import ADAPTERS

ROOT = Path(__file__).parents[2]
SCENARIO = """
model: roberta-tiny
target: cpu
seq: [8]
methods:
  - {name: python, call: "adapters_of_mine:lora", arguments: {rank: 4}, label: "<i>mine</i>"}
  - {name: python, call: "adapters_of_mine:broken"}
batch: [2]
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "adapters_of_mine.py").write_text(ADAPTERS)
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return tmp_path


def cli(here, *arguments, program=("-m", "refta_profiler")):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=here, env=environment)


def rows(here):
    (table,) = here.glob("out/*/results.csv")
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_ends_with_its_report_and_says_what_failed(here):
    found = cli(here, "run", "s.yaml", "--out", "out", "--allow-code")
    assert found.returncode == 1, found.stderr
    assert "attaching" not in found.stdout
    by_place = {(row["label"], row["source"], row["metric"]): row for row in rows(here)}
    predicted, measured = (by_place["<i>mine</i>", source, "peak_allocated_bytes"] for source in ("dryrun", "measured"))
    assert predicted["value"] == measured["value"] != ""
    for source in ("dryrun", "measured"):
        failed = by_place["python/broken", source, "peak_allocated_bytes"]
        assert (failed["status"], failed["value"]) == ("error", "")
        assert failed["note"].startswith("ValueError: no <b>such</b> thing (")
        assert "adapters_of_mine.py:" in failed["note"]
    (page,) = here.glob("out/*/report.html")
    text = page.read_text()
    assert "&lt;i&gt;mine&lt;/i&gt;" in text
    assert "no &lt;b&gt;such&lt;/b&gt; thing" in text
    assert "<i>mine" not in text
    assert "<b>such" not in text
    assert "scenario.yaml --allow-code      # the same run, anew" in text
    (here / "adapters_of_mine.py").write_text("raise SystemExit('imported')\n")
    (folder,) = here.glob("out/*")
    again = cli(here, "report", str(folder), "--format", "html,md")  # from the rows alone: the code is never imported
    assert again.returncode == 0, again.stderr
    resumed = cli(here, "run", str(folder / "scenario.yaml"), "--resume", str(folder))
    assert resumed.returncode == 2
    assert "scenario.yaml: methods[0].call: runs code of your own; add --allow-code to allow it" in resumed.stderr


@pytest.mark.slow
def test_the_console_script_finds_the_current_folder_and_prints_json_alone(here):
    """A console script's own folder is what Python looks in, not the current one."""
    program = here / "elsewhere" / "refta-profiler"
    program.parent.mkdir()
    program.write_text("import sys\nfrom refta_profiler.cli import main\nsys.exit(main())\n")
    found = cli(here, "predict", "s.yaml", "--json", "--allow-code", program=(str(program),))
    assert found.returncode == 1, found.stderr
    assert {row["status"] for row in json.loads(found.stdout) if row["metric"] == "static_bytes"} == {"ok", "error"}


@pytest.mark.slow
def test_processes_that_predict_find_it_too(here):
    broken = '{name: python, call: "adapters_of_mine:broken"}'
    text = SCENARIO.replace("batch: [2]", "batch: [2, 4, 8]").replace(broken, "{name: head}")
    (here / "s.yaml").write_text(text)
    found = cli(here, "predict", "s.yaml", "--json", "--allow-code")
    assert found.returncode == 0, found.stderr
    assert len({row["point"] for row in json.loads(found.stdout)}) == 6
