"""The main path in this process: rows in the folder, resuming, failures as rows, what is measured and what is skipped."""

import errno
import json
import os
import shutil
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
from fake_executor import Fake
from worker_answers import answer, failure

from refta_profiler import plan, processes, run, run_folder, same_measurements
from refta_profiler import scenario as scenarios
from refta_profiler.errors import HardwareError, ScenarioError, StorageError
from refta_profiler.measure import gpu, isolate, stage
from refta_profiler.measure.executors import Place, local
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder

SCENARIO = """
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: h100
methods:
  - {name: head}
  - {name: refta, rank: 5, order: [shared, reconstruct]}
batch: [2, 4]
measure: {on_cpu: {batch: [2], warmup: 1, steps: 1, repeats: 1, budget_s: 300}}
"""
ANSWER = answer()


class Told:
    """Progress that remembers what it was told."""

    def __init__(self):
        self.stages, self.points, self.said = [], [], []

    def start(self, what, total):
        self.stages.append((what, total))

    def done(self, point, note=""):
        self.points.append((point, note))

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measurements answer at once, predictions run in this process."""
    asked = []
    monkeypatch.setattr(isolate, "measure", lambda point, device, **options: asked.append((point.id, options)) or ANSWER)
    monkeypatch.setattr(run, "in_processes", lambda jobs: ((job, run.predict_job(job)) for job in jobs))
    return asked


def go(scenario, folder, **options):
    told = Told()
    return run.run(scenario, folder, run.Options(**{"device": "cpu", **options}), told).rows, told


def test_a_run_leaves_rows_of_every_source_a_table_and_a_report(scenario, folder):
    rows, told = go(scenario, folder, formats=("html", "md"))
    points = plan.points(scenario)
    assert told.stages == [("predict", 9), ("measure", 3)]  # six points for the H100, three of them for this CPU too
    assert {row.point for row in rows} == {point.id for point in points}
    assert {row.source for row in rows} == {"contraction", "dryrun", "measured"}
    timed = [
        row
        for row in rows
        if row.source != "contraction" and (row.metric, row.target, row.source) != ("step_seconds", "cpu", "dryrun")
        if row.metric != "noise_fraction"  # timed in one process, there is none
    ]
    assert {row.status for row in timed} == {"ok"}
    assert {row.target for row in rows if row.source == "dryrun"} == {"h100", "cpu"}
    for name in ("scenario.yaml", "plan.json", "environment.json", "closed_form.json", "results.csv", "report.html", "report.md"):
        assert (folder.path / name).stat().st_size > 0
    assert folder.environment()["target_device"]["key"] == "h100"


@pytest.mark.slow
def test_every_variant_leaves_its_step_once(scenario, folder, monkeypatch):
    go(scenario, folder, only="predict")
    variants = plan.variants(plan.points(scenario))
    assert (
        [entry["label"] for entry in folder.steps()] == [point.label for point in variants] == ["head", "refta/shared", "refta/reconstruct"]
    )
    assert all("following" in entry for entry in folder.steps())
    monkeypatch.setattr(run, "in_processes", lambda jobs: pytest.fail("done again") if jobs else [])
    go(scenario, RunFolder.open(folder.path), only="predict")


@pytest.mark.slow
def test_a_run_from_before_there_were_steps_gets_them_on_resuming(scenario, folder):
    go(scenario, folder, only="predict")
    for path in (folder.path / "steps").iterdir():
        path.unlink()
    _, told = go(scenario, RunFolder.open(folder.path), only="predict")
    assert told.stages[0] == ("predict", 0)
    assert len(folder.steps()) == 3


def test_a_step_whose_variant_begins_with_another_batch_is_there_once(scenario, folder):
    first, second = plan.points(scenario)[:2]
    step = {"model": "m", "label": "lora", "seq": 8, "precision": "fp32", "checkpointing": False, "parallel": "", "target": "cpu"}
    for one, rank in ((first, 1), (second, 2)):
        folder.write_steps(one.id, [step | {"rank": rank}, step | {"target": "h100", "rank": rank}])
    folder.write_steps("of-another-scenario", [step | {"label": "dropped"}])
    assert len(folder.steps()) == 3  # before a plan says what counts
    folder.order([second.id, first.id])
    assert [(one["target"], one["rank"]) for one in folder.steps()] == [("cpu", 2), ("h100", 2)]
    folder.order([first.id])
    assert [one["rank"] for one in folder.steps()] == [1, 1]


def test_a_row_without_a_field_names_its_file(scenario, folder):
    point = plan.points(scenario)[0]
    path = folder.write_point(point.id, "dryrun", [Row.of(point, "cpu", "dryrun", "peak_allocated_bytes", 1)])
    content = json.loads(path.read_text())
    del content["rows"][0]["unit"]
    path.write_text(json.dumps(content))
    with pytest.raises(StorageError, match=r"is not the point file that its name says .*no unit.*; delete it and resume the run"):
        folder.read(point.id, "dryrun")


def test_a_variants_jobs_stay_together_its_step_last(scenario):
    points = plan.points(scenario)
    jobs = [(point, "h100", "dryrun") for point in points] + [(point, "h100", run.STEPS) for point in plan.variants(points)]
    groups = run.by_variant(jobs)
    assert [len(group) for group in groups] == [3, 3, 3]
    assert all(group[-1][2] == run.STEPS for group in groups)


def test_rows_follow_the_scenarios_order(scenario, folder):
    rows, _ = go(scenario, folder, only="predict")
    assert list(dict.fromkeys(row.point for row in rows)) == [point.id for point in plan.points(scenario)]


def test_a_finished_run_resumed_does_nothing_and_adds_nothing(scenario, folder, quick):
    first, _ = go(scenario, folder)
    table = (folder.path / "results.csv").read_text()
    asked = len(quick)
    again, told = go(scenario, RunFolder.open(folder.path))
    assert told.stages == [("predict", 0), ("measure", 0)]
    assert len(quick) == asked
    assert again == first
    assert (folder.path / "results.csv").read_text() == table


def test_rows_that_are_missing_are_made_from_what_the_processes_answered(scenario, folder, quick):
    first, _ = go(scenario, folder)
    folder.point_path(plan.points(scenario)[0].id, "measured").unlink()
    quick.clear()
    again, told = go(scenario, RunFolder.open(folder.path))
    assert (quick, again, told.stages[1]) == ([], first, ("measure", 0))


def test_a_published_copy_without_point_files_keeps_what_its_table_holds(scenario, folder, quick):
    first, _ = go(scenario, folder)
    shutil.rmtree(folder.path / "points")
    again, told = go(scenario, RunFolder.open(folder.path), only="measure")
    assert (again, told.stages) == (first, [("measure", 0)])
    more, _ = go(repeated(scenario, 2), RunFolder.open(folder.path), only="measure")
    assert [row for row in more if row.source != "measured"] == [row for row in first if row.source != "measured"]


@pytest.mark.parametrize(
    ("formats", "names"), [(("md",), ["report.md"]), (("html", "csv", "latex"), ["report.html", "results.csv", "paper/example.tex"])]
)
def test_the_reports_that_are_named_are_those_that_were_written(scenario, folder, unpredicted, formats, names):
    done = run.run(scenario, folder, run.Options(device="cpu", formats=formats), Told())
    assert done.reports == [folder.path / name for name in names]
    assert all(path.is_file() for path in done.reports)


def test_what_is_missing_is_done_on_resuming(scenario, folder, quick):
    first, _ = go(scenario, folder)
    points = plan.points(scenario)
    folder.process_path(points[0].id, 1).unlink()
    folder.point_path(points[0].id, "measured").unlink()
    folder.point_path(points[3].id, "dryrun").unlink()
    quick.clear()
    again, told = go(scenario, RunFolder.open(folder.path))
    assert told.stages == [("predict", 1), ("measure", 1)]
    assert [point for point, _ in quick] == [points[0].id]
    assert again == first


def test_the_frozen_scenario_resumes_its_run(scenario, folder):
    first, _ = go(scenario, folder, only="predict")
    frozen = scenarios.load(folder.path / "scenario.yaml", [])
    again, told = go(frozen, RunFolder.open(folder.path), only="predict")
    assert told.stages[0] == ("predict", 0)
    assert again == first


@pytest.fixture
def unpredicted(monkeypatch):
    """Predictions take no time."""
    monkeypatch.setattr(run, "predict_job", lambda job: ([], []))
    monkeypatch.setattr(run, "closed_form", lambda points: [])


def test_another_target_alone_measures_nothing_anew(tmp_path, scenario, folder, quick, unpredicted):
    first, _ = go(scenario, folder)
    (folder.path / "traces" / f"{first[0].point}.json.gz").write_bytes(b"traced")
    aimed = scenarios.load(tmp_path / "tiny.yaml", ["target=l4"])
    rows, told = go(aimed, RunFolder.open(folder.path))
    assert (len(quick), told.stages) == (3, [("predict", 9), ("measure", 0)])
    assert {row.point for row in rows}.isdisjoint(row.point for row in first)
    assert [replace(row, point="") for row in rows] == [replace(row, point="") for row in first]
    assert folder.environment()["sessions"][1]["did"] == {"predictions": 9, "processes": 0, "trainings": 0}
    assert (folder.path / "traces" / f"{rows[0].point}.json.gz").read_bytes() == b"traced"
    assert folder.details(rows[0].point) == folder.details(first[0].point) != {}
    back, told = go(scenario, RunFolder.open(folder.path))
    assert (len(quick), back) == (3, first)


def test_a_run_whose_target_was_an_alias_is_gone_on_with(scenario, folder, quick, unpredicted):
    """As runs were before scenarios had a device's own name for it."""
    go(scenario.model_copy(update={"target": "h100-sxm"}), folder)
    go(scenario, RunFolder.open(folder.path))
    assert len(quick) == 3


def test_what_a_stopped_taking_over_left_is_taken_over_again(scenario, folder, quick, unpredicted, tmp_path, monkeypatch):
    go(repeated(scenario, 2), folder)
    aimed = scenarios.load(tmp_path / "tiny.yaml", ["target=l4", "measure.on_cpu.repeats=2"])
    write, left = RunFolder.write_process, [3]

    def dies(folder, point, number, *rest):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return write(folder, point, number, *rest)

    monkeypatch.setattr(RunFolder, "write_process", dies)
    with pytest.raises(KeyboardInterrupt):
        go(aimed, RunFolder.open(folder.path))
    monkeypatch.setattr(RunFolder, "write_process", write)
    rows, _ = go(aimed, RunFolder.open(folder.path))
    assert len(quick) == 6
    assert len({row.point for row in rows if row.metric == "step_seconds"}) == 3


def test_trainings_are_taken_over_as_well(folder):
    (folder.path / "training").mkdir()
    (folder.path / "training" / "a.12345678.lr0.001.seed0.json").write_text('{"version": 1, "point": "a", "losses": []}')
    same_measurements.take_over(folder, "a", "b")
    copy = json.loads((folder.path / "training" / "b.12345678.lr0.001.seed0.json").read_text())
    assert copy == {"version": 1, "point": "b", "losses": []}


def test_another_scenarios_points_are_not_mixed_in(tmp_path, scenario, folder):
    go(scenario, folder, only="predict")
    other = scenarios.load(tmp_path / "tiny.yaml", ["batch=[8]"])
    with pytest.raises(ScenarioError, match="started with other points"):
        go(other, RunFolder.open(folder.path))
    assert folder.planned() == [point.id for point in plan.points(scenario)]


def test_a_changed_scenario_runs_what_is_new_and_leaves_out_what_it_dropped(tmp_path, scenario, folder, quick):
    before, _ = go(scenario, folder)
    quick.clear()
    changed = scenarios.load(tmp_path / "tiny.yaml", ["batch=[2,8]"])
    rows, told = go(changed, RunFolder.open(folder.path))
    assert told.stages == [("predict", 3), ("measure", 0)]  # batch 8 of three methods; batch 2 was predicted and measured
    assert {row.batch for row in rows} == {2, 8}
    assert [row for row in rows if row.batch == 2] == [row for row in before if row.batch == 2]
    assert "\n".join((folder.path / "results.csv").read_text().splitlines()[1:]).count(",4,8,") == 0
    assert scenarios.load(folder.path / "scenario.yaml", []) == changed
    assert scenarios.load(folder.path / "scenario.1.yaml", []) == scenario
    again, told = go(scenario, RunFolder.open(folder.path))  # back again: nothing was lost
    assert (again, told.stages) == (before, [("predict", 0), ("measure", 0)])


def test_a_cut_file_is_named(scenario, folder):
    go(scenario, folder, only="predict")
    path = folder.point_path(plan.points(scenario)[0].id, "dryrun")
    path.write_text(path.read_text()[:50])
    with pytest.raises(ScenarioError, match=path.name):
        go(scenario, folder)


def test_a_failed_measurement_is_a_row_and_the_others_go_on(monkeypatch, scenario, folder):
    answers = iter(
        [{"failure": {"status": "error", "note": "ended by signal 11 (SIGSEGV)"}}, {"failure": {"status": "oom", "note": "killed"}}, ANSWER]
    )
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: next(answers))
    rows, told = go(scenario, folder, only="measure")
    peaks = [(row.status, row.value, row.note) for row in rows if row.metric == "peak_allocated_bytes"]
    assert peaks == [("error", None, "ended by signal 11 (SIGSEGV)"), ("oom", None, "killed"), ("ok", 1000, "")]
    assert [note for _, note in told.points] == ["ended by signal 11 (SIGSEGV)", "killed", ""]
    assert "SIGSEGV" in (folder.path / "results.csv").read_text()


def test_a_failed_prediction_is_a_row_and_the_others_go_on(monkeypatch, scenario, folder):
    from refta_profiler.predict import rows as predicting

    real = predicting.dry_run

    def some(point, *rest):
        if point.method == "head":
            raise RuntimeError("no such kernel")
        return real(point, *rest)

    monkeypatch.setattr(predicting, "dry_run", some)
    rows, _ = go(scenario, folder, only="predict")
    failed = {row.label for row in rows if row.source == "dryrun" and row.status == "error"}
    assert failed == {"head"}
    assert all("no such kernel" in row.note for row in rows if row.status == "error")
    assert any(row.status == "ok" for row in rows if row.label == "refta/shared" and row.source == "dryrun")


def test_what_exceeds_the_budget_is_skipped_and_says_so(monkeypatch, scenario, folder, quick):
    clock = iter([0.0, 10.0, 400.0, 500.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock, 500.0))
    rows, _ = go(repeated(scenario, 1, limit_s=1000.0), folder, only="measure")
    assert len(quick) == 1
    assert quick[0][1]["limit_s"] == 290
    skipped = [row for row in rows if row.status == "skipped" and row.metric != "noise_fraction"]
    assert {row.label for row in skipped} == {"refta/shared", "refta/reconstruct"}
    assert all("300 s" in row.note and row.value is None for row in skipped)


def test_what_is_too_slow_for_the_budget_is_skipped_too_and_more_budget_measures_it(monkeypatch, scenario, folder, quick):
    monkeypatch.setattr(isolate, "measure", lambda point, device, **options: isolate.late(options["limit_s"]))
    rows, _ = go(repeated(scenario, 1, limit_s=1000.0), folder, only="measure")
    words = "the budget of 300 s for measuring on the CPU was used up while it ran (took longer than 300 s)"
    assert {(row.status, row.note) for row in rows} == {("skipped", words)}
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: ANSWER)
    _, told = go(repeated(scenario, 1, limit_s=1000.0), RunFolder.open(folder.path), only="measure")
    assert told.stages == [("measure", 0)]  # what takes longer than the whole budget would do so again
    rows, told = go(repeated(scenario, 1, limit_s=1000.0, budget_s=3000), RunFolder.open(folder.path), only="measure")
    assert told.stages == [("measure", 3)]
    assert {row.status for row in rows if row.metric == "peak_allocated_bytes"} == {"ok"}


def test_a_process_that_hangs_has_its_own_limit_and_does_not_hang_again_on_resuming(monkeypatch, scenario, folder):
    def hangs(point, device, **options):
        asked.append(options["limit_s"])
        return isolate.late(options["limit_s"]) if point.label == "head" else ANSWER

    asked = []
    monkeypatch.setattr(isolate, "measure", hangs)
    rows, _ = go(scenario, folder, only="measure")
    assert asked == [150.0] * 3
    failed = {(row.label, row.status, row.note) for row in rows if row.status == "error"}
    assert failed == {("head", "error", "took longer than 150 s (measure.on_cpu.limit_s gives it longer)")}
    go(scenario, RunFolder.open(folder.path), only="measure")
    assert asked == [150.0] * 3
    go(repeated(scenario, 1, limit_s=250.0), RunFolder.open(folder.path), only="measure")
    assert asked == [150.0] * 3 + [250.0]


def test_errors_are_tried_again_where_that_is_asked_for(monkeypatch, scenario, folder, quick):
    def predicted(job):
        point, target, _ = job
        failed = {"status": "error", "note": "no such kernel"} if broken and point.method == "head" else {}
        return [], [Row.of(point, target, "dryrun", "static_bytes", None if failed else 1, **failed)]

    broken, measure = [True], isolate.measure
    monkeypatch.setattr(run, "predict_job", predicted)
    monkeypatch.setattr(run, "closed_form", lambda points: [])
    monkeypatch.setattr(RunFolder, "has_steps", lambda *_: True)
    monkeypatch.setattr(run.report, "write", lambda *_: None)
    answers = iter([failure("error", "killed (signal 9)"), failure("oom", "CUDA out of memory"), ANSWER])
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: next(answers))
    rows, _ = go(scenario, folder)
    assert {(row.label, row.source) for row in rows if row.status == "error"} == {("head", "dryrun"), ("head", "measured")}
    broken.clear()
    monkeypatch.setattr(isolate, "measure", measure)
    _, told = go(scenario, RunFolder.open(folder.path))
    assert told.stages == [("predict", 0), ("measure", 0)]
    rows, told = go(scenario, RunFolder.open(folder.path), retry_errors=True)
    assert told.stages == [("predict", 3), ("measure", 1)]  # two batches of head for the H100, one for this CPU
    assert [point for point, _ in quick] == [plan.points(scenario)[0].id]
    assert {row.status for row in rows if row.label == "head"} <= {"ok", "skipped"}
    assert {row.label for row in rows if row.status == "oom"} == {"refta/shared"}


def test_why_processes_are_not_forked_is_said_once_and_stands_in_every_row(monkeypatch, scenario, folder):
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: answer(not_forked="in a fresh process, not a forked one: it has ended"))
    rows, told = go(scenario, folder, only="measure")
    assert told.said == ["in a fresh process, not a forked one: it has ended"]
    notes = {row.note for row in rows if row.metric == "step_seconds"}
    assert notes == {"median of 1 process × 1 step; in a fresh process, not a forked one: it has ended"}


def test_rounds_that_began_unlike_each_other_are_said(monkeypatch, scenario, folder):
    wheres = iter([{"forked": True}] * 3 + [{}] * 3)
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: answer(where=next(wheres)))
    rows, _ = go(repeated(scenario, 2), folder, only="measure")
    assert {row.note for row in rows if row.metric == "step_seconds"} == {
        "mean of the medians of 2 processes × 1 step; process 1 of 2 forked, the others fresh"
    }


def test_more_budget_measures_what_was_not_begun(monkeypatch, scenario, folder, quick):
    go(repeated(scenario, 1, budget_s=0), folder, only="measure")
    assert quick == []
    rows, told = go(scenario, RunFolder.open(folder.path), only="measure")
    assert (told.stages, len(quick)) == ([("measure", 3)], 3)
    assert {row.status for row in rows if row.metric == "peak_allocated_bytes"} == {"ok"}


def repeated(scenario, count, **more):
    on_cpu = scenario.measure.on_cpu.model_copy(update={"repeats": count, **more})
    return scenario.model_copy(update={"measure": scenario.measure.model_copy(update={"on_cpu": on_cpu})})


def test_the_processes_of_points_take_turns_and_the_later_ones_are_for_time_alone(scenario, folder, quick):
    rows, told = go(repeated(scenario, 3), folder, only="measure")
    labels = [point.label for point in plan.points(scenario) if point.batch == 2]
    names = {point.id: point.label for point in plan.points(scenario)}
    assert told.stages == [("measure", 9)]
    assert [names[point] for point, _ in quick] == [*labels, *reversed(labels), *labels[1:], labels[0]]
    assert [options["passes"] for _, options in quick] == [["setup_memory", "time", "memory"]] * 3 + [["time"]] * 6
    assert {row.note for row in rows if row.metric == "step_seconds"} == {"mean of the medians of 3 processes × 1 step"}
    assert {row.status for row in rows if row.metric == "noise_fraction"} == {"ok"}


def test_a_processes_answer_is_kept_and_more_repeats_run_only_what_is_new(scenario, folder, quick):
    go(repeated(scenario, 2), folder, only="measure")
    assert set(folder.processes(quick[0][0])) == {1, 2}
    quick.clear()
    _, told = go(repeated(scenario, 3), RunFolder.open(folder.path), only="measure")
    assert told.stages == [("measure", 3)]
    assert {tuple(options["passes"]) for _, options in quick} == {("time",)}


def test_changed_steps_are_measured_anew(scenario, folder, quick):
    go(scenario, folder, only="measure")
    quick.clear()
    go(repeated(scenario, 1, steps=4), RunFolder.open(folder.path), only="measure")
    assert {options["steps"] for _, options in quick} == {4}
    assert len(quick) == 3


def test_noise_is_what_the_processes_of_a_setting_differ_by(monkeypatch, scenario, folder):
    times = iter([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # the second round takes twice as long for all: drift, no noise
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: answer((next(times),)))
    rows, _ = go(repeated(scenario, 2), folder, only="measure")
    assert [row.value for row in rows if row.metric == "noise_fraction"] == pytest.approx([0, 0, 0], abs=1e-9)


def test_two_batches_out_of_memory_stop_a_methods_sweep(monkeypatch, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO.replace("batch: [2, 4]", "batch: [1, 2, 4, 8]").replace("batch: [2], warmup", "batch: [1, 2, 4, 8], warmup"))
    scenario = scenarios.load(path, [])
    folder = RunFolder.create(tmp_path / "out", scenario.text)
    asked = []

    def measure(point, *_, **__):
        asked.append((point.label, point.batch))
        return failure("oom", "tried to allocate 5 GiB") if point.label == "head" and point.batch > 1 else ANSWER

    monkeypatch.setattr(isolate, "measure", measure)
    rows, _ = go(scenario, folder, only="measure")
    peaks = {(row.label, row.batch): (row.status, row.note) for row in rows if row.metric == "peak_allocated_bytes"}
    assert [peaks["head", batch][0] for batch in (1, 2, 4, 8)] == ["ok", "oom", "oom", "skipped"]
    assert peaks["head", 8][1] == "two smaller batches of head ran out of memory"
    assert ("head", 8) not in asked
    assert {peaks["refta/shared", batch][0] for batch in (1, 2, 4, 8)} == {"ok"}
    folder.point_path(plan.points(scenario)[3].id, "measured").unlink()  # as if it had been stopped before: no place is in local answers
    asked.clear()
    go(scenario, RunFolder.open(folder.path), only="measure")
    assert asked == []


def test_a_later_process_beyond_the_budget_is_not_run_and_the_first_stands(monkeypatch, scenario, folder, quick):
    clock = iter([0.0, 10.0, 20.0, 30.0, 400.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock, 500.0))
    rows, _ = go(repeated(scenario, 2), folder, only="measure")
    assert len(quick) == 3
    assert {row.status for row in rows if row.metric == "step_seconds"} == {"ok"}
    assert {row.note for row in rows if row.metric == "step_seconds"} == {"median of 1 process × 1 step"}
    notes = {row.note for row in rows if row.metric == "noise_fraction"}
    assert {note.partition("judged ")[2] for note in notes} == {"(the budget of 300 s for measuring on the CPU was used up)"}


def test_the_setting_that_would_give_a_noise_floor_is_the_devices(scenario, folder):
    rows, _ = go(scenario, folder, only="measure")
    notes = {row.note.partition("judged ")[2] for row in rows if row.metric == "noise_fraction"}
    assert notes == {"(measure.on_cpu.repeats: 2 or more)"}


class Gpus(Fake):
    """A cluster whose devices are H100s."""

    def __init__(self):
        super().__init__({"cuda: NVIDIA H100": 1}, respond=lambda *_: answer(where={"device": "cuda: NVIDIA H100"}))
        self.places = [Place("cuda: NVIDIA H100", "h100")]

    def kind(self, wanted):
        return "cuda"


@pytest.fixture
def measured_on_h100(scenario, folder, monkeypatch):
    """The folder, measured on a GPU, on a machine that has none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run.run(scenario, folder, run.Options(only="measure", formats=("csv",), executor=Gpus()), Told())
    there = folder.environment() | {"device": "cuda: NVIDIA H100", "cpu": {"model": "theirs"}, "started": "2026-01-01T00:00:00+00:00"}
    folder.write_environment(there)
    return folder


def files_of(folder):
    return {path: path.read_text() for name in ("points", "processes", "details") for path in (folder.path / name).iterdir()}


@pytest.mark.parametrize("only", [None, "measure", "predict"])
def test_a_folder_of_another_kind_of_device_is_not_measured_anew_unasked(scenario, measured_on_h100, quick, only, monkeypatch):
    folder, before = measured_on_h100, files_of(measured_on_h100)
    monkeypatch.setattr(run, "predict_all", lambda points, measured, *_, **__: None if not measured else pytest.fail("for another"))
    monkeypatch.setattr(run, "closed_form", lambda points: [])
    environment = folder.environment()
    _, told = go(scenario, RunFolder.open(folder.path), device="auto", only=only)
    assert quick == []
    assert before.items() <= files_of(folder).items()
    kept = ("device", "cpu", "gpu", "versions", "torch_settings", "started", "ended", "executor")
    assert {name: folder.environment()[name] for name in kept} == {name: environment[name] for name in kept}
    if only != "predict":
        (words,) = told.said
        assert words.startswith("nothing is measured: what ")
        assert words.endswith("was measured on h100, and here is a CPU; to measure on a CPU, in the place of that, say --device cpu")


def test_a_folder_of_another_kind_of_device_is_measured_anew_where_that_is_asked_for(scenario, measured_on_h100, quick):
    rows, told = go(scenario, RunFolder.open(measured_on_h100.path), device="cpu", only="measure")
    assert (len(quick), told.said) == (3, [])
    assert measured_on_h100.environment()["device"].startswith("cpu: ")
    assert {row.target for row in rows if row.batch == 2} == {"cpu"}


def test_trainings_on_another_kind_of_device_count_as_well(scenario, measured_on_h100):
    assert run.elsewhere(measured_on_h100, "cuda", "cpu") == ""
    folder = measured_on_h100
    row = replace(folder.rows()[0], metric="test_accuracy", unit="1", value=0.5, target="h100")
    folder.write_point(row.point, "measured-task", [row])
    assert run.elsewhere(folder, "cuda", "cuda") == ""
    assert "say --device cpu" in run.elsewhere(folder, "cuda", "cpu")


def without_sessions(environment):
    return {name: value for name, value in environment.items() if name != "sessions"}


def test_an_environment_stands_while_nothing_is_measured(scenario, folder):
    go(scenario, folder, only="measure")
    others = {"device": "cpu: theirs", "started": "2026-01-01T00:00:00+00:00", "commit": "theirs", "command": "their command"}
    theirs = without_sessions(folder.environment()) | others
    folder.write_environment(theirs)
    go(scenario, RunFolder.open(folder.path), only="measure")
    assert without_sessions(folder.environment()) == theirs
    go(repeated(scenario, 2), RunFolder.open(folder.path), only="measure")
    assert folder.environment()["device"] != "cpu: theirs"
    assert folder.environment()["commit"] != "theirs"
    assert folder.environment()["started"] > "2026-01-01"
    first, second, third = folder.environment()["sessions"]
    assert (first["commit"], first["started"], "note" in first) == ("theirs", "2026-01-01T00:00:00+00:00", True)
    assert second["did"] == {"predictions": 0, "processes": 0, "trainings": 0}
    assert third["did"] == {"predictions": 0, "processes": 3, "trainings": 0}
    assert third["wall_seconds"] >= 0


def test_a_commit_that_is_not_known_is_not_taken_from_who_resumes(scenario, folder):
    go(scenario, folder, only="measure")
    unknown = {name: value for name, value in folder.environment().items() if name not in ("commit", "uncommitted_changes", "sources")}
    folder.write_environment(unknown)
    go(scenario, RunFolder.open(folder.path), only="measure")
    assert "commit" not in folder.environment()
    assert "sources" not in folder.environment()


def test_points_and_processes_name_the_session_that_made_them(scenario, folder, monkeypatch):
    monkeypatch.setattr(run, "predict_job", lambda job: ([], []))
    monkeypatch.setattr(run, "closed_form", lambda points: [])
    go(scenario, folder)
    go(repeated(scenario, 2), RunFolder.open(folder.path))
    point = next(one for one in plan.points(scenario) if one.measure_on_cpu)
    assert [folder.process(point.id, number)["answer"]["where"]["session"] for number in (1, 2)] == [1, 2]
    assert json.loads(folder.point_path(point.id, "dryrun").read_text())["session"] == 1
    assert json.loads(folder.point_path(point.id, "measured").read_text())["session"] == 2
    assert [one["did"]["processes"] for one in folder.environment()["sessions"]] == [3, 3]


def test_a_session_that_is_stopped_stays_on_record_without_an_end(scenario, folder, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(isolate, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        go(scenario, folder, only="measure")
    (session,) = folder.environment()["sessions"]
    assert session["command"] == folder.environment()["command"]
    assert "ended" not in session


def test_a_predicting_process_that_is_killed_is_said(monkeypatch, scenario):
    monkeypatch.undo()
    killed = Future()
    killed.set_exception(BrokenProcessPool("a process in the pool was terminated abruptly"))
    monkeypatch.setattr(processes, "ended", lambda call, jobs, *_: iter([(jobs[0][0], killed)]))
    monkeypatch.setattr(run.os, "cpu_count", lambda: 2)
    with pytest.raises(HardwareError, match="a process that predicts was killed, as happens when memory runs out"):
        list(run.in_processes([(point, "cpu", "dryrun") for point in plan.points(scenario)]))


def test_a_gpu_that_others_use_can_be_refused(monkeypatch, scenario, folder):
    monkeypatch.setattr(gpu, "settle", lambda setting, **_: ("refuse", f"the GPU is used by others ({setting})"))
    refusing = scenario.model_copy(update={"measure": scenario.measure.model_copy(update={"busy_gpu": "refuse"})})
    with pytest.raises(HardwareError, match="used by others"):
        stage.measure_all(refusing, plan.points(scenario)[:1], folder, "cuda", "h100", Told(), local.Local())


def test_only_predict_measures_nothing_and_only_measure_predicts_nothing(tmp_path, scenario, quick):
    predicted, _ = go(scenario, RunFolder.create(tmp_path / "a", scenario.text), only="predict")
    assert quick == []
    assert "measured" not in {row.source for row in predicted}
    measured, _ = go(scenario, RunFolder.create(tmp_path / "b", scenario.text), only="measure")
    assert {row.source for row in measured} == {"measured"}


@pytest.mark.parametrize(("when", "device", "count"), [("never", "cpu", 0), ("never", "cuda", 0), ("auto", "cpu", 3), ("auto", "cuda", 6)])
def test_what_is_measured(scenario, when, device, count):
    changed = scenario.model_copy(update={"measure": scenario.measure.model_copy(update={"when": when})})
    assert len(run.to_measure(changed, plan.points(scenario), device)) == count


def test_the_settings_of_the_cpu_reach_the_worker(scenario, folder, quick):
    go(scenario, folder, only="measure")
    assert {(options["warmup"], options["steps"]) for _, options in quick} == {(1, 1)}


def test_an_interruption_keeps_what_is_finished(monkeypatch, scenario, folder, quick):
    calls = []

    def interrupted(*_, **__):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ANSWER

    monkeypatch.setattr(isolate, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(scenario, folder, only="measure")
    assert len(list((folder.path / "points").glob("*.measured.json"))) == 1
    rows, told = go(scenario, RunFolder.open(folder.path), only="measure")
    assert told.stages == [("measure", 2)]
    assert {row.status for row in rows if row.metric == "peak_allocated_bytes"} == {"ok"}
    assert len({row.point for row in rows}) == 3


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("full", ["points", "processes", "details", "results.csv"])
def test_a_full_disk_is_named_and_leaves_nothing_half_written(monkeypatch, scenario, folder, full):
    """Files of one kind cannot be written; what was finished stands, and the run goes on where there is room again."""
    fsync = os.fsync

    def refuse(descriptor):
        if full in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise FULL
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=rf"{full}.*: cannot be written: No space left on device"):
        go(scenario, folder, only="measure")
    assert list(folder.path.rglob(".*.tmp")) == []
    monkeypatch.undo()
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: ANSWER)
    rows, _ = go(scenario, RunFolder.open(folder.path), only="measure")
    assert len({row.point for row in rows if row.status == "ok"}) == 3


@pytest.mark.parametrize("name", ["points", "processes", "details", "traces", "steps"])
def test_a_folder_that_cannot_be_made_is_named(folder, name):
    if (folder.path / name).exists():
        (folder.path / name).rmdir()
    (folder.path / name).write_text("a file")
    writes = {
        "points": lambda: folder.write_point("vit", "measured", []),
        "processes": lambda: folder.write_process("vit", 1, {}, {}),
        "details": lambda: folder.write_details("vit", {}),
        "traces": lambda: folder.trace_path("vit", ".json.gz"),
        "steps": lambda: folder.write_steps("vit", []),
    }
    with pytest.raises(StorageError, match=rf"{name}.*: cannot be written: "):
        writes[name]()


@pytest.mark.parametrize(
    ("call", "fault", "words"),
    [
        ("flock", OSError(errno.ENOLCK, "No locks available"), r"cannot be locked .No locks available.*takes locks, with --out"),
        ("open", OSError(errno.EROFS, "Read-only file system"), r"\.lock: cannot be written: Read-only file system"),
    ],
)
def test_a_folder_that_cannot_be_locked_is_named(monkeypatch, folder, call, fault, words):
    def refuse(*_):
        raise fault

    monkeypatch.setattr(run_folder.fcntl if call == "flock" else run_folder, call, refuse, raising=False)
    with pytest.raises(StorageError, match=words), folder.lock():
        pass


def test_what_a_killed_run_left_half_written_is_deleted(folder):
    old, new = folder.path / "points" / ".a.json.7.tmp", folder.path / "points" / ".b.json.8.tmp"
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (time.time() - 3600,) * 2)
    with folder.lock():
        assert [path.name for path in folder.path.rglob(".*.tmp")] == [new.name]


def test_two_processes_do_not_run_in_one_folder(scenario, folder):
    with folder.lock(), pytest.raises(ScenarioError, match="another process"):
        go(scenario, RunFolder.open(folder.path))


def test_a_gpu_that_is_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.measuring_device("auto") == run.measuring_device("cpu") == "cpu"
    with pytest.raises(HardwareError, match="no CUDA device") as caught:
        run.measuring_device("cuda")
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_points_in_processes_are_those_in_this_one(monkeypatch, scenario):
    monkeypatch.undo()
    jobs = [(point, "cpu", "dryrun") for point in plan.points(scenario)]
    monkeypatch.setattr(run.os, "cpu_count", lambda: 2)
    found = {job[0].id: result for job, result in run.in_processes(jobs)}
    assert set(found) == {point.id for point in plan.points(scenario)}
    first = jobs[0]
    assert found[first[0].id] == run.predict_job(first)


def test_rows_are_json_and_survive_it(scenario, folder):
    go(scenario, folder, only="predict")
    for path in (folder.path / "points").glob("*.json"):
        content = json.loads(path.read_text())
        assert content["rows"]


def test_a_point_is_the_same_whatever_it_is_called(scenario):
    point = plan.points(scenario)[2]
    named = replace(point, label="another name")
    assert run.predict_job((named, "cpu", ""))[1][0].value == run.predict_job((point, "cpu", ""))[1][0].value
