"""Which stored answers stand where a run goes on with another device or other versions: a finished point's do, and no figure is of two."""

import contextlib
import json
from dataclasses import replace

import pytest
from fake_executor import Fake
from worker_answers import answer, failure

from refta_profiler import plan
from refta_profiler.measure import isolate, rounds, rows, stage
from refta_profiler.measure.executors import EXECUTOR
from refta_profiler.measure.executors.local import Local
from refta_profiler.measure.forks import Forks

SCENARIO = """
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods: [{name: head}, {name: lora, rank: 2}]
batch: [1]
measure:
  {warmup: 0, steps: 1, repeats: 2, instruments: [], on_cpu: {batch: [1], warmup: 0, steps: 1, repeats: 2, budget_s: 300}}
"""
HERE = {"device": "cpu: x, 1 thread", "versions": {"torch": "2.13.0", "refta_profiler": "aaaaaaaa"}}


class Told:
    def __init__(self):
        self.said = []

    def start(self, what, total):
        self.total = total

    def done(self, point, note=""):
        pass

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def no_gpu_is_touched(monkeypatch):
    monkeypatch.setattr("refta_profiler.measure.gpu.settle", lambda *_, **__: ("", ""))
    monkeypatch.setattr(Forks, "measure", lambda *_: None)


@pytest.fixture
def on(monkeypatch, scenario, folder):
    """Measure on this machine, which is a device with versions; what was asked for, as (label, round is the first)."""

    def measure(where, *, device="cpu", stop_after=100, points=plan.points(scenario)):
        asked = []

        def respond(point, kind, *, passes, **_):
            if len(asked) == stop_after:
                raise KeyboardInterrupt
            asked.append((point.label, "memory" in passes))
            return answer(where=where)

        monkeypatch.setattr(isolate, "measure", respond)
        monkeypatch.setattr(stage.environment, "where", lambda kind: where)
        told = Told()
        with contextlib.suppress(KeyboardInterrupt):
            stage.measure_all(scenario, points, folder, device, "h100" if device == "cuda" else "cpu", told, Local())
        return asked, told.said

    return measure


def devices(folder, scenario, label):
    point = next(one for one in plan.points(scenario) if one.label == label)
    return [folder.process(point.id, number)["answer"]["where"]["device"] for number in (1, 2)]


def test_a_point_that_was_begun_on_another_processor_is_measured_anew_and_a_finished_one_stays(on, folder, scenario):
    on(HERE, stop_after=3)  # both first rounds, and the second of lora: every second round runs backwards
    there = {**HERE, "device": "cpu: y, 1 thread"}
    asked, said = on(there)
    assert asked == [("head", True), ("head", False)]
    assert devices(folder, scenario, "lora") == ["cpu: x, 1 thread"] * 2
    assert devices(folder, scenario, "head") == ["cpu: y, 1 thread"] * 2
    assert said == [
        "1 point, begun with device cpu: x, 1 thread (here cpu: y, 1 thread): it is measured anew, so that no figure is of both",
        "1 point, measured with device cpu: x, 1 thread (here cpu: y, 1 thread): it is left as measured",
    ]
    assert on(there) == ([], [])


def test_versions_are_not_mixed_in_one_figure(on, folder, scenario):
    on(HERE, stop_after=3)
    newer = {**HERE, "versions": {"torch": "2.14.0", "refta_profiler": "aaaaaaaa"}}
    asked, said = on(newer)
    assert asked == [("head", True), ("head", False)]
    assert said[0] == "1 point, begun with torch 2.13.0 (here 2.14.0): it is measured anew, so that no figure is of both"
    rows = {row.label: row.note for row in folder.rows() if row.metric == "step_seconds"}
    assert rows["head"].startswith("mean of the medians of 2 processes")
    assert rows["head"].endswith("with torch 2.14.0, unlike others of this run")
    assert rows["lora"].endswith("with torch 2.13.0, unlike others of this run")


def test_another_state_of_the_profilers_own_code_is_said(on, folder):
    on(HERE, stop_after=3)
    asked, _ = on({**HERE, "versions": {"torch": "2.13.0", "refta_profiler": "bbbbbbbb"}})
    assert asked == [("head", False)]
    rows = {row.label: row.note for row in folder.rows() if row.metric == "step_seconds"}
    assert rows["head"].endswith("its processes ran the profiler in 2 states of its code (sources aaaaaaaa, bbbbbbbb)")
    assert "states" not in rows["lora"]


def test_an_answer_of_the_other_kind_of_device_answers_nothing(on, folder, scenario):
    """The settings and instruments are the same on both."""
    cuda = {**HERE, "device": "cuda: NVIDIA H100"}
    on(cuda, device="cuda")
    every = [("head", True), ("lora", True), ("lora", False), ("head", False)]
    assert on(HERE, stop_after=3)[0] == every[:3]
    assert on(HERE)[0] == every[3:]  # which `cuda` had answered
    assert devices(folder, scenario, "lora") == ["cpu: x, 1 thread"] * 2
    assert {row.status for row in folder.rows() if row.metric == "noise_fraction"} == {"ok"}


def test_a_process_that_died_on_the_other_kind_of_device_says_nothing_of_this_one(on, folder, scenario, monkeypatch):
    points = plan.points(scenario)[:1]
    monkeypatch.setattr(stage.environment, "where", lambda kind: HERE)
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: failure("oom", "killed"))
    stage.measure_all(scenario, points, folder, "cuda", "h100", Told(), Local())
    assert len(on(HERE, points=points)[0]) == 2


def test_answers_from_before_the_device_was_asked_for_stand(on, folder):
    on(HERE)
    for path in (folder.path / "processes").iterdir():
        content = json.loads(path.read_text())
        del content["asked"]["device"]
        path.write_text(json.dumps(content))
    assert on(HERE) == ([], [])


def test_what_failed_for_good_is_finished_wherever_the_run_goes_on(on, folder, scenario, monkeypatch):
    point = plan.points(scenario)[0]
    known = rounds.Stage(scenario.measure, folder, "cpu", "cpu", None)
    folder.write_process(point.id, 1, known.asked(1), failure("oom", "too large") | {"where": HERE})
    assert on({**HERE, "device": "cpu: y, 1 thread"}, points=[point])[0] == []


def test_on_a_cluster_a_later_round_is_run_again_where_its_points_first_was(scenario, folder):
    points, told = plan.points(scenario), Told()
    once = scenario.model_copy(update={"measure": repeats(scenario, 1)})
    stage.measure_all(once, points, folder, "cpu", "cpu", told, Fake({"cpu: x": 1}))
    elsewhere = Fake({"cpu: y": 1})
    stage.measure_all(scenario, points, folder, "cpu", "cpu", told, elsewhere)
    assert len(elsewhere.started) == 2
    again = Fake({"cpu: y": 1})
    stage.measure_all(scenario, points, folder, "cpu", "cpu", told, again)
    assert again.started == []  # the first one's device is not there
    back = Fake({"cpu: y": 1, "cpu: x": 1})
    stage.measure_all(scenario, points, folder, "cpu", "cpu", told, back)
    assert [place for _, _, place in back.started] == ["cpu: x"] * 2
    assert {row.status for row in folder.rows() if row.metric == "noise_fraction"} == {"ok"}


def test_a_rank_has_other_threads_than_the_driver(scenario, folder):
    known = rounds.Stage(scenario.measure, folder, "cpu", "cpu", None, identify=lambda: {"device": "cpu: x, 2 threads"})
    point = plan.points(scenario)[0]
    assert rounds.otherwise(known, point, {"where": HERE}) == "device cpu: x, 1 thread (here cpu: x, 2 threads)"
    assert rounds.otherwise(known, replace(point, parallel="ddp:2"), {"where": HERE}) == ""


def repeats(scenario, count):
    return scenario.measure.model_copy(update={"on_cpu": scenario.measure.on_cpu.model_copy(update={"repeats": count})})


def noise_of(folder):
    return {row.label: (row.status, row.note) for row in folder.rows() if row.metric == "noise_fraction"}


def test_what_is_added_to_a_run_took_no_turns_with_what_was_there_and_is_not_judged(on, folder, scenario):
    head, lora = plan.points(scenario)
    folder.session = 1
    on(HERE, points=[head])
    folder.session = 2
    on(HERE, points=[head, lora])
    assert {label: status for label, (status, _) in noise_of(folder).items()} == {"head": "ok", "lora": "skipped"}
    assert "never in turn with them" in noise_of(folder)["lora"][1]


def test_what_was_interrupted_and_resumed_took_turns_as_far_as_it_did(on, folder):
    folder.session = 1
    on(HERE, stop_after=3)
    folder.session = 2
    on(HERE)
    assert {status for status, _ in noise_of(folder).values()} == {"ok"}


@pytest.mark.parametrize(
    ("found", "plainly", "with_errors"),
    [
        ({"values": {}}, False, False),
        ({"faults": {"timeline": {"status": "error", "note": "x"}}}, False, True),
        ({"afterwards": {"merge_seconds": {"value": None, "status": "error", "note": "x"}}}, False, True),
        ({"afterwards": {"merge_seconds": {"value": None, "status": "unsupported", "note": "x"}}}, False, False),
        ({"failure": {"status": "error", "note": "x"}}, False, True),
        ({"failure": {"status": "oom", "note": "x"}}, False, False),
        ({"failure": {"status": "oom", "note": "x; the GPU is used by process 7", "others": True}}, False, True),
        ({"failure": {"status": "skipped", "note": "the budget was used up", "late": True, "limit_s": 140.0}}, True, True),
        ({"failure": {"status": "skipped", "note": "the budget was used up", "late": True, "limit_s": 149.9}}, False, False),
        ({"failure": {"status": "skipped", "note": "no node"}}, True, True),
        ({"failure": {"status": "error", "note": "lost", "by": EXECUTOR}}, True, True),
        ({"failure": {"status": "error", "note": "late", "late": True, "limit_s": 140.0}}, False, True),
        ({"failure": {"status": "error", "note": "late", "late": True, "limit_s": 100.0}}, True, True),
    ],
)
def test_which_processes_are_run_again(scenario, folder, found, plainly, with_errors):
    for retry, expected in ((False, plainly), (True, with_errors)):
        assert rounds.passing(rounds.Stage(scenario.measure, folder, "cpu", "cpu", None, retry), found) is expected


def test_a_run_that_was_stopped_judges_no_times_until_it_is_gone_on_with(on, folder):
    on(HERE, stop_after=3)
    assert set(noise_of(folder).values()) == {("skipped", rows.NOT_SETTLED)}
    on(HERE)
    assert {status for status, _ in noise_of(folder).values()} == {"ok"}


def test_a_measurement_is_not_lost_to_another_try_that_fails(on, folder, scenario, monkeypatch):
    """Merging failed; measured again for that, the point runs out of time."""
    on(HERE)
    point = plan.points(scenario)[1]
    kept = folder.process(point.id, 1)
    merging = {"afterwards": {"merge_seconds": {"value": None, "status": "error", "note": "x"}}}
    folder.write_process(point.id, 1, kept["asked"], kept["answer"] | merging)
    monkeypatch.setattr(isolate, "measure", lambda *_, **__: failure("error", "took longer than 5 s"))
    told = Told()
    told.done = lambda point, note="": told.said.append(note)
    stage.measure_all(scenario, plan.points(scenario), folder, "cpu", "cpu", told, Local(), retry_errors=True)
    assert told.said == ["run again, and failed: took longer than 5 s; what was measured before stays"]
    assert folder.process(point.id, 1)["answer"] == kept["answer"] | merging
    assert {row.status for row in folder.read(point.id, "measured") if row.metric in ("step_seconds", "noise_fraction")} == {"ok"}


SMALL_CARD, LARGE_CARD = ({**HERE, "device": f"cuda: NVIDIA {name}"} for name in ("L4", "H100"))


@pytest.fixture
def sweep(monkeypatch, scenario, folder):
    """Measure on that card, on which only some batches run; those that were tried."""
    first = plan.points(scenario)[0]
    points = [replace(first, batch=batch, id=f"{first.id}-{batch}") for batch in (1, 16, 32, 64)]

    def run(where, fits, **more):
        tried = []

        def respond(point, kind, **_):
            tried.append(point.batch)
            found = {"failure": {"status": "oom", "note": "out of memory", **more}} if not fits(point.batch) else answer()
            return {**found, "where": where}

        monkeypatch.setattr(isolate, "measure", respond)
        monkeypatch.setattr(stage.environment, "where", lambda kind: where)
        retry = not more and where == SMALL_CARD
        stage.measure_all(scenario, points, folder, "cuda", "h100", Told(), Local(), retry_errors=retry)
        return sorted(set(tried))

    return run


def test_what_ran_out_of_memory_on_one_card_does_not_end_the_sweep_on_another(sweep):
    assert sweep(SMALL_CARD, lambda batch: batch < 16) == [1, 16, 32]
    assert 64 in sweep(LARGE_CARD, lambda batch: True)


def test_what_ran_out_of_memory_beside_others_is_tried_again_with_the_errors(sweep):
    assert sweep(SMALL_CARD, lambda batch: batch < 16, others=True) == [1, 16, 32, 64]  # and ends no sweep
    assert sweep(SMALL_CARD, lambda batch: True) == [16, 32, 64]


def test_processes_that_were_asked_for_other_steps_are_no_part_of_a_point(folder, scenario):
    """The scenario asks for two processes where there were three, and for more steps."""
    point = plan.points(scenario)[0]
    for number in (1, 2, 3):
        asked = {"warmup": 0, "steps": 1, "passes": ["time"], "instruments": []}
        folder.write_process(point.id, number, asked, answer((9.0,)))
    for number, passes, more in ((1, ["time", "memory"], {}), (2, ["time"], {"device": "cpu"})):  # told since
        asked = {"warmup": 2, "steps": 10, "passes": passes, "instruments": [], **more}
        folder.write_process(point.id, number, asked, answer((1.0,) * 10))
    assert sorted(folder.processes(point.id)) == [1, 2]
