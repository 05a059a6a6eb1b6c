"""The runs that are committed, made whole again: all rows in files, each where a run would have it."""

import shutil
from pathlib import Path

import pytest

from refta_profiler import published_copy
from refta_profiler.run_folder import RunFolder

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"


@pytest.mark.parametrize(("name", "with_suffix"), [("quickstart", "dryrun-cpu"), ("accuracy", "measured-task")])
def test_a_published_table_becomes_the_files_that_it_was_made_of(name, with_suffix, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("scenario.yaml", "plan.json", "results.csv"):
        shutil.copy(PUBLISHED / name / file, folder)
    run = RunFolder.open(folder)
    before = run.rows()
    published_copy.unpack(run)
    assert run.rows() == before
    sources = {path.name.removesuffix(".json").rpartition(".")[2] for path in (folder / "points").iterdir()}
    assert sources == {"contraction", "dryrun", "measured", with_suffix}


def test_what_is_stopped_in_the_middle_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    for file in ("scenario.yaml", "plan.json", "results.csv"):
        shutil.copy(PUBLISHED / "quickstart" / file, tmp_path)
    run = RunFolder.open(tmp_path)
    before, write, written = run.rows(), RunFolder.write_point, []

    def stopped(self, point, source, rows):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(point)
        return write(self, point, source, rows)

    monkeypatch.setattr(RunFolder, "write_point", stopped)
    with pytest.raises(KeyboardInterrupt):
        published_copy.unpack(run)
    assert run.rows() == before
    monkeypatch.setattr(RunFolder, "write_point", write)
    published_copy.unpack(run)
    assert run.rows() == before
    assert len(list((tmp_path / "points").iterdir())) > 5
    assert not (tmp_path / ".unpacked").exists()


def test_files_that_are_there_are_not_touched(tmp_path):
    shutil.copytree(PUBLISHED / "gpu" / "vit_l", tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    first = next((run.path / "points").glob("*.json"))
    first.unlink()
    table = (run.path / "results.csv").read_text()
    published_copy.unpack(run)
    assert not first.exists()
    assert (run.path / "results.csv").read_text() == table
