"""Rows, and a run's folder, which survives being killed at any moment."""

import json
import multiprocessing
import re
from dataclasses import replace

import pytest

from refta_profiler.errors import ProfilerError, ScenarioError, StorageError
from refta_profiler.results import FIELDS, METRICS, SOURCES, Row, from_csv, to_csv, to_json
from refta_profiler.run_folder import RunFolder

ROW = Row(
    point="vit-1",
    model="vit-large",
    label="refta/shared",
    method="refta",
    order="shared",
    rank=15,
    batch=8,
    seq=197,
    precision="fp32",
    checkpointing=True,
    target="h100",
    source="dryrun",
    metric="peak_allocated_bytes",
    unit="B",
    value=2_981_000_192,
)
BROKEN = replace(ROW, point="vit-2", order=None, rank=None, seq=None, value=None, status="oom", note='out of "memory",\nreally')


def test_fields_are_the_agreed_ones():
    agreed = "point model label method order rank batch seq precision checkpointing target source metric unit value status note parallel"
    assert agreed.split() == list(FIELDS)


@pytest.mark.parametrize("row", [ROW, BROKEN, replace(ROW, value=0.0125, metric="step_seconds", unit="s", checkpointing=False)])
def test_a_row_survives_csv_and_json(row):
    assert from_csv(to_csv([row])) == [row]
    assert [Row.from_dict(values) for values in json.loads(to_json([row]))] == [row]


def test_whole_numbers_stay_whole():
    assert isinstance(from_csv(to_csv([ROW]))[0].value, int)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"value": None}, "status 'ok'"),
        ({"status": "oom"}, "status 'oom'"),
        ({"status": "dead", "value": None}, "dead"),
        ({"source": "guess"}, "guess"),
        ({"value": float("nan")}, "not a number"),
    ],
)
def test_a_row_that_cannot_be_says_why(change, fault):
    with pytest.raises(ValueError, match=fault):
        replace(ROW, **change)


def test_a_row_without_a_field_names_it():
    with pytest.raises(ProfilerError, match="batch"):
        Row.from_dict({name: value for name, value in ROW.to_dict().items() if name != "batch"})


def test_every_metric_has_a_unit_and_sources():
    assert {metric.unit for metric in METRICS.values()} == {"count", "FLOP", "B", "s", "1"}
    assert all(set(metric.sources) <= set(SOURCES) and metric.description for metric in METRICS.values())


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "reports", "model: vit-large\n")


def test_the_scenario_is_there_at_once_and_stamps_are_unique(run, tmp_path):
    second = RunFolder.create(tmp_path / "reports", "model: other\n")
    assert (run.path / "scenario.yaml").read_text() == "model: vit-large\n"
    assert second.path != run.path
    assert RunFolder.open(run.path).scenario_text() == "model: vit-large\n"


def test_what_is_no_run_folder_is_refused(run, tmp_path):
    with pytest.raises(ScenarioError, match="no such folder"):
        RunFolder.open(tmp_path / "absent")
    with pytest.raises(ScenarioError, match=f"did you mean.*{run.path.name}"):
        RunFolder.open(tmp_path / "reports")


def test_rows_come_in_the_scenarios_order(run):
    run.order(["vit-2", "vit-1"])
    run.write_point("vit-1", "dryrun", [ROW])
    run.write_point("vit-1", "contraction", [replace(ROW, source="contraction")])
    run.write_point("vit-1", "dryrun-cpu", [replace(ROW, target="cpu")])
    run.write_point("vit-2", "dryrun", [BROKEN])
    found = [(row.point, row.source, row.target) for row in run.rows()]
    assert found == [("vit-2", "dryrun", "h100"), ("vit-1", "contraction", "h100"), ("vit-1", "dryrun", "h100"), ("vit-1", "dryrun", "cpu")]
    assert from_csv(run.write_table().read_text()) == run.rows()


def test_a_copy_with_the_table_alone_still_has_its_rows(run):
    run.write_point("vit-1", "dryrun", [ROW])
    run.write_table()
    run.point_path("vit-1", "dryrun").unlink()
    assert run.rows() == [ROW]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"fp32", "pr\xe4zise".encode("cp1252"), "line 2: byte 0xe4 is not UTF-8"),
        (b",8,197,", b",,197,", "line 2: batch '' cannot be read"),
        (b",5000,ok,", b",,ok,", "line 2: row vit-1, peak_allocated_bytes: value None does not go with status 'ok'"),
        (b",5000,ok,", b",much,ok,", "line 2: value 'much' cannot be read"),
        (b"point,model", b"pint,model", "line 2: a row has no point"),
        (b",5000,ok,", b"", "line 2: "),
    ],
)
def test_a_table_that_was_edited_is_named_with_its_line(run, before, after, words):
    content = to_csv([replace(ROW, value=5000)]).encode()
    assert before in content
    (run.path / "results.csv").write_bytes(content.replace(before, after))
    with pytest.raises(StorageError, match=re.escape(f"results.csv: {words}")):
        run.rows()


def test_a_table_that_a_spreadsheet_saved_is_read(run):
    (run.path / "results.csv").write_bytes(b"\xef\xbb\xbf" + to_csv([ROW]).replace("\n", "\r\n").encode())
    assert run.rows() == [ROW]


def test_finished(run):
    assert not run.finished("vit-1", "dryrun")
    run.write_point("vit-1", "dryrun", [ROW])
    assert run.finished("vit-1", "dryrun")
    assert not run.finished("vit-1", "measured")


def test_a_file_cut_short_is_named(run):
    path = run.write_point("vit-1", "dryrun", [ROW])
    path.write_text(path.read_text()[:100])
    with pytest.raises(ScenarioError, match=r"vit-1\.dryrun\.json.*delete it"):
        run.finished("vit-1", "dryrun")


def test_a_foreign_file_is_named(run):
    path = run.write_point("vit-1", "dryrun", [ROW])
    path.rename(run.point_path("vit-9", "dryrun"))
    with pytest.raises(ScenarioError, match=r"vit-9\.dryrun\.json"):
        run.rows()


def test_a_temporary_file_of_a_killed_run_is_no_point(run):
    run.write_point("vit-1", "dryrun", [ROW])
    (run.path / "points" / ".vit-2.dryrun.json.77.tmp").write_text("{")
    assert run.rows() == [ROW]


def test_rows_of_another_point_are_refused(run):
    with pytest.raises(ValueError, match="vit-1"):
        run.write_point("vit-2", "dryrun", [ROW])


@pytest.mark.parametrize("point", ["../vit", "a/b", ".hidden"])
def test_a_point_id_cannot_leave_the_folder(run, point):
    with pytest.raises(ValueError, match="cannot be a file name"):
        run.write_point(point, "dryrun", [])


def try_lock(path, answers):
    try:
        with RunFolder(path).lock():
            answers.put("held")
    except ScenarioError as fault:
        answers.put(str(fault))


def second_lock(run):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=try_lock, args=(run.path, answers))
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    answers.close()
    return answer


def test_a_second_process_is_kept_out(run):
    with run.lock():
        assert "another process" in second_lock(run)
    assert second_lock(run) == "held"


def test_environment_and_closed_form(run):
    assert (run.environment(), run.closed_form(), run.planned()) == ({}, [], [])
    run.write_environment({"device": "cpu"})
    run.write_closed_form([{"order": "shared"}])
    assert (run.environment(), run.closed_form()) == ({"device": "cpu"}, [{"order": "shared"}])


def test_details_of_a_measured_point_stand_beside_its_rows(tmp_path):
    folder = RunFolder.create(tmp_path, "name: x\n")
    path = folder.write_details("a-b1", {"samples": [[{"forward": 0.5}]], "operators": []})
    assert path == folder.path / "details" / "a-b1.json"
    assert json.loads(path.read_text())["samples"] == [[{"forward": 0.5}]]
    assert folder.rows() == []


def test_details_are_read_back_and_empty_where_there_are_none(tmp_path):
    folder = RunFolder.create(tmp_path, "name: x\n")
    assert folder.details("p") == {}
    folder.write_details("p", {"samples": [1.5]})
    assert folder.details("p") == {"samples": [1.5]}


def test_a_published_copy_without_point_files_gets_them_where_it_is_resumed(tmp_path):
    run = RunFolder.create(tmp_path, "model: a")
    (run.path / "points").rmdir()
    run.write_point("p", "measured", [])
    assert run.finished("p", "measured")
