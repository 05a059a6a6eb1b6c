"""The page of all runs."""

import re
import shutil

import pytest

from refta_profiler.errors import ScenarioError
from refta_profiler.report.index_page import run_paths, write_index
from refta_profiler.run_folder import RunFolder


@pytest.fixture
def folder(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "vit_l" / "20260101T000000Z")
    return tmp_path


def test_a_run_stands_with_its_verdict_and_a_link(folder):
    (folder / "vit_l" / "20260101T000000Z" / "report.html").write_text("")
    path, (entry,) = write_index(folder)
    text = path.read_text()
    assert (entry.name, entry.model, entry.broken) == ("vit_l", "vit-large", "")
    assert "predicted for h100; measured on cpu" in text and "against its best other order" in text
    assert 'href="vit_l/20260101T000000Z/report.html"' in text


def test_broken_runs_are_told_not_dropped(folder):
    cut = folder / "cut" / "1"
    cut.joinpath("points").mkdir(parents=True)
    cut.joinpath("scenario.yaml").write_text("model: x\n")
    cut.joinpath("points", "a.dryrun.json").write_text("{")
    lost = folder / "lost"
    lost.mkdir()
    lost.joinpath("results.csv").write_text("point\n")
    foreign = folder / "foreign"
    foreign.mkdir()
    foreign.joinpath("scenario.yaml").write_text("model: x\n")
    foreign.joinpath("results.csv").write_text("one,two\n1,2\n")
    RunFolder.create(folder / "empty", "model: x\n")
    path, entries = write_index(folder)
    reasons = {entry.path.split("/")[0]: entry.broken for entry in entries}
    assert "cannot be read" in reasons["cut"] and "no scenario.yaml" in reasons["lost"]
    assert "has no" in reasons["foreign"] and "no rows yet" in reasons["empty"] and reasons["vit_l"] == ""
    text = path.read_text()
    assert all(name in text for name in ("cut/1", "lost", "foreign")) and re.search(r"cannot be read</dt><dd>4<", text)


def test_names_are_escaped(folder):
    shutil.move(folder / "vit_l", folder / "<script>x'\"")
    text = write_index(folder)[0].read_text()
    assert "<script" not in text and "%3Cscript%3E" in text


def test_what_lies_inside_a_run_is_not_a_run(folder):
    assert len(run_paths(folder)) == 1


def test_a_folder_without_runs_says_so(tmp_path):
    with pytest.raises(ScenarioError, match="holds no run"):
        write_index(tmp_path)
    with pytest.raises(ScenarioError, match="no such folder"):
        write_index(tmp_path / "none")
