"""A run in a notebook."""

import csv
import io
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import refta_profiler
from refta_profiler import results
from refta_profiler.errors import ScenarioError
from refta_profiler.loaded_run import LoadedRun
from refta_profiler.run_folder import RunFolder

FIXTURE = Path(__file__).parent / "report" / "fixture" / "vit_l.py"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return refta_profiler.load_run(runpy.run_path(str(FIXTURE))["make"](tmp_path_factory.mktemp("runs")).path)


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, refta_profiler as r; r.load_run; print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == "[]"


def test_it_has_every_row_and_the_verdicts(loaded):
    assert loaded.rows == loaded.folder.rows()
    assert {verdict.kind for verdict in loaded.verdicts} == {"order", "method", "task"}


def test_rows_as_a_data_frame(loaded):
    frame = loaded.to_pandas()
    assert list(frame.columns) == list(results.FIELDS) and len(frame) == len(loaded.rows)
    assert frame["rank"].isna().any() and frame["rank"].dtype == "Int64"
    peak = frame.query("label == 'lora' and batch == 8 and metric == 'peak_allocated_bytes' and source == 'dryrun' and not checkpointing")
    assert peak["value"].iloc[0] > 2**30


def test_a_data_frame_of_nothing_has_its_columns():
    assert list(results.to_pandas([]).columns) == list(results.FIELDS)


def test_tables_of_the_report_are_unrounded(loaded):
    frame = loaded.table("disk")
    assert frame.loc[frame["method"] == "lora", "adapter_bytes"].iloc[0] == 4 * 1_572_864
    with pytest.raises(KeyError, match="no table 'dsk'"):
        loaded.table("dsk")


def test_it_shows_its_verdicts_and_peaks(loaded):
    text = loaded._repr_html_()
    assert "<h3>vit_l: does it pay off?</h3>" in text and "Task: not known" in text and "<code>refta/shared</code>" in text
    assert text.count("<tr>") > 5
    assert repr(loaded).startswith("<run 'vit_l' in ")


def test_every_name_is_escaped(loaded, tmp_path):
    bad = "<script>alert(1)</script>"
    folder = RunFolder.create(tmp_path, f"name: '{bad}'\nmodel: m\nmethods: [{{name: head}}]\nbatch: [1]\n")
    for number, row in enumerate(loaded.rows[:400]):
        folder.write_point(f"p{number}", row.source, [replace(row, point=f"p{number}", label=bad, note=bad)])
    text = LoadedRun(folder)._repr_html_()
    assert "&lt;script&gt;" in text and "<script" not in text


def test_a_path_that_is_no_run(tmp_path):
    with pytest.raises(ScenarioError, match="is not a run folder"):
        refta_profiler.load_run(tmp_path)


def test_an_unknown_name_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'lod_run'"):
        refta_profiler.lod_run  # noqa: B018
    assert "load_run" in dir(refta_profiler)


def test_csv_and_data_frame_say_the_same(loaded):
    table = list(csv.DictReader(io.StringIO(results.to_csv(loaded.rows))))
    assert [line["point"] for line in table] == list(loaded.to_pandas()["point"])
