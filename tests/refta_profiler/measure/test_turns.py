"""Many processes at once, on a cluster that is faked: order, the stop of a sweep, resuming, unlike devices, files that come back."""

from collections import Counter

import pytest
from fake_executor import Fake
from worker_answers import answer, failure

from refta_profiler import plan, run
from refta_profiler import scenario as scenarios
from refta_profiler.errors import HardwareError
from refta_profiler.evidence import candidates
from refta_profiler.measure import carried, isolate, rounds, stage
from refta_profiler.run_folder import RunFolder

SCENARIO = """
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods:
  - {name: head}
  - {name: lora, rank: 2}
  - {name: refta, rank: 5, order: [shared, reconstruct]}
batch: [1, 2, 4, 8]
measure: {on_cpu: {batch: [1, 2, 4, 8], warmup: 0, steps: 1, repeats: 2, budget_s: 300}}
"""
LABELS = ["head", "lora", "refta/shared", "refta/reconstruct"]


class Silent:
    """Progress that counts."""

    def __init__(self):
        self.total, self.notes = 0, []

    def start(self, what, total):
        self.total = total

    def done(self, point, note=""):
        self.notes.append(note)


def measure(scenario, folder, fake):
    points = run.to_measure(scenario, plan.points(scenario), "cpu")
    told = Silent()
    keys = stage.measure_all(scenario, points, folder, "cpu", "cpu", told, fake)
    folder.order([point.id for point in points])
    return told, keys


def peaks(folder):
    return {(row.label, row.batch): row for row in folder.rows() if row.metric == "peak_allocated_bytes"}


def test_every_process_runs_once_as_many_at_once_as_there_are_devices(scenario, folder):
    fake = Fake({"cpu: x": 3}, pick=lambda running: len(running) - 1)
    told, _ = measure(scenario, folder, fake)
    assert Counter(fake.started) == {(label, batch, "cpu: x"): 2 for label in LABELS for batch in (1, 2, 4, 8)}
    assert fake.most == 3
    assert (told.total, len(told.notes)) == (32, 32)
    assert {row.status for row in peaks(folder).values()} == {"ok"}
    assert len(list((folder.path / "processes").iterdir())) == 32


def test_processes_start_round_by_round_in_the_order_of_the_points(scenario, folder):
    fake = Fake({"cpu: x": 3})
    measure(scenario, folder, fake)
    rounds_of = [[(label, batch, "cpu: x") for batch in (1, 2, 4, 8) for label in labels] for labels in (LABELS, LABELS[::-1])]
    assert fake.started == [*rounds_of[0], *rounds_of[1]]


def test_no_place_in_a_round_favours_a_point(scenario):
    """Of four points the places in two rounds add up to the same for all, and in eight rounds each is first and last twice."""
    points = [point for point in plan.points(scenario) if point.batch in (1, 2)]
    orders = [[point.label for point in rounds.in_turn(points, number) if point.batch == 1] for number in range(1, 9)]
    assert {sum(order.index(label) for order in orders[:2]) for label in LABELS} == {len(LABELS) - 1}
    assert Counter(order[0] for order in orders) == Counter(order[-1] for order in orders) == dict.fromkeys(LABELS, 2)
    assert [point.batch for point in rounds.in_turn(points, 4)] == [1] * 4 + [2] * 4  # batches stay together


def test_a_later_round_waits_for_its_points_first(scenario, folder):
    """The first process to start is the last to end: its point's second round starts after it, all others before."""
    fake = Fake({"cpu: x": 2}, pick=lambda running: 1 if len(running) > 1 else 0)
    measure(scenario, folder, fake)
    assert fake.started[0] == fake.started[-1] == ("head", 1, "cpu: x")
    assert set(folder.processes(next(iter(peaks(folder).values())).point)) == {1, 2}


def test_a_sweep_that_ran_out_of_memory_starts_nothing_more(scenario, folder):
    def respond(process, place):
        return failure("oom", "tried to allocate 5 GiB") if process.point.label == "head" and process.point.batch > 1 else answer()

    fake = Fake({"cpu: x": 2}, respond=respond)
    measure(scenario, folder, fake)
    found = peaks(folder)
    assert [found["head", batch].status for batch in (1, 2, 4, 8)] == ["ok", "oom", "oom", "skipped"]
    assert ("head", 8, "cpu: x") not in fake.started
    assert Counter(label for label, _, _ in fake.started) == {"head": 4, "lora": 8, "refta/shared": 8, "refta/reconstruct": 8}


def test_what_a_queue_holds_of_such_a_sweep_is_taken_back(scenario, folder):
    fake = Fake(
        {"partition": 100}, respond=lambda process, place: failure("oom", "no") if process.point.label == "head" else answer(), begun=3
    )
    told, _ = measure(scenario, folder, fake)
    found = peaks(folder)
    assert [found["head", batch].status for batch in (1, 2, 4, 8)] == ["oom", "oom", "skipped", "skipped"]
    assert found["head", 8].note == "two smaller batches of head ran out of memory"
    assert told.total == len(told.notes) == 32
    assert {found["lora", batch].status for batch in (1, 2, 4, 8)} == {"ok"}


def with_batches(tmp_path, batches):
    path = tmp_path / "other.yaml"
    path.write_text(SCENARIO.replace("[1, 2, 4, 8]", batches))
    return scenarios.load(path, [])


def of_head(fake):
    return [batch for label, batch, _ in fake.started if label == "head"]


def test_a_resumed_sweep_goes_on_as_one_that_has_run_out_of_memory(tmp_path, scenario, folder):
    def respond(process, place):
        return failure("oom", "no") if process.point.label == "head" and process.point.batch > 1 else answer()

    measure(with_batches(tmp_path, "[1, 2, 4]"), folder, Fake({"cpu: x": 1}, respond=respond))
    there, other = Fake({"cpu: x": 1}, respond=respond), Fake({"cpu: y": 1}, respond=respond)
    measure(scenario, folder, there)
    assert of_head(there) == []
    assert peaks(folder)["head", 8].note == "two smaller batches of head ran out of memory"
    told, _ = measure(scenario, folder, there)
    assert told.total == 0  # it is said already
    measure(scenario, folder, other)
    assert of_head(other) == [8]  # on another device nothing has run out of memory


def test_batches_below_those_that_ran_out_of_memory_are_tried(tmp_path, scenario, folder):
    def respond(process, place):
        return failure("oom", "no") if process.point.label == "head" and process.point.batch > 2 else answer()

    measure(with_batches(tmp_path, "[4, 8]"), folder, Fake({"cpu: x": 1}, respond=respond))
    fake = Fake({"cpu: x": 1}, respond=respond)
    measure(scenario, folder, fake)
    assert of_head(fake) == [1, 2, 1, 2]
    assert [peaks(folder)["head", batch].status for batch in (1, 2, 4, 8)] == ["ok", "ok", "oom", "oom"]


def test_what_was_lost_is_run_again_on_resuming_and_what_failed_by_itself_is_not(scenario, folder):
    def respond(process, place):
        if process.point.label == "head":
            return carried.unmeasured("lost 3 times", place.name)
        return failure("error", "its own") if process.point.label == "lora" else answer()

    measure(scenario, folder, Fake({"cpu: x": 1}, respond=respond))
    assert {peaks(folder)[label, 1].status for label in ("head", "lora")} == {"error"}
    fake = Fake({"cpu: x": 1})
    measure(scenario, folder, fake)
    assert Counter(fake.started) == {("head", batch, "cpu: x"): 2 for batch in (1, 2, 4, 8)}
    assert {peaks(folder)["head", batch].status for batch in (1, 2, 4, 8)} == {"ok"}
    assert measure(scenario, folder, fake)[0].total == 0


def test_a_later_round_that_was_lost_is_run_again(scenario, folder):
    measure(
        scenario, folder, Fake({"cpu: x": 1}, respond=lambda one, place: carried.unmeasured("lost", "") if one.number > 1 else answer())
    )
    fake = Fake({"cpu: x": 1})
    assert measure(scenario, folder, fake)[0].total == len(fake.started) == 16
    assert not [row for row in folder.rows() if "lost" in row.note]


def test_what_no_node_can_run_is_skipped_with_the_reason_until_one_can(scenario, folder):
    def refusals(point, place):
        return "needs 8 GPUs of one node" if point.batch > 4 else ""

    fake = Fake({"cpu: x": 1}, refusals=refusals)
    measure(scenario, folder, fake)
    assert {batch for _, batch, _ in fake.started} == {1, 2, 4}
    assert {(peaks(folder)[label, 8].status, peaks(folder)[label, 8].note) for label in LABELS} == {("skipped", "needs 8 GPUs of one node")}
    assert measure(scenario, folder, fake)[0].total == 0
    measure(scenario, folder, Fake({"cpu: x": 1}))
    assert {row.status for row in peaks(folder).values()} == {"ok"}


@pytest.mark.parametrize("large", ["cpu: x", "cpu: y"])
def test_a_point_goes_to_a_place_that_can_run_it(scenario, folder, large):
    fake = Fake({"cpu: x": 1, "cpu: y": 1}, refusals=lambda point, place: "too few" if point.batch > 2 and place.name != large else "")
    measure(scenario, folder, fake)
    assert {row.status for row in peaks(folder).values()} == {"ok"}
    assert {place for _, batch, place in fake.started if batch > 2} == {large}


def test_on_a_gpu_a_process_that_takes_too_long_is_an_error_of_its_point(scenario, folder):
    asked = []
    fake = Fake({"cuda: x": 1}, respond=lambda process, place: asked.append(process) or isolate.late(process.limit_s))
    points = plan.points(scenario)[:1]
    for _ in range(2):
        stage.measure_all(scenario, points, folder, "cuda", "h100", Silent(), fake)
    assert len(fake.started) == 1
    words = "took longer than 900 s (measure.limit_s gives it longer)"
    assert {(row.status, row.note) for row in folder.read(points[0].id, "measured")} == {("error", words)}
    longer = scenario.model_copy(update={"measure": scenario.measure.model_copy(update={"limit_s": 1800.0})})
    stage.measure_all(longer, points, folder, "cuda", "h100", Silent(), fake)
    assert [process.limit_s for process in asked] == [900.0, 1800.0]


def test_details_are_there_before_the_process_counts_as_run(scenario, folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_process", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(scenario, folder, Fake({"cpu: x": 1}, respond=lambda *_: answer(timeline={"bytes": [1]})))
    assert [folder.details(point.id)["timeline"] for point in plan.points(scenario)[:1]] == [{"bytes": [1]}]


def test_an_interruption_leaves_a_folder_to_resume_from(scenario, folder):
    calls = []

    def respond(process, place):
        calls.append(process)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return answer()

    with pytest.raises(KeyboardInterrupt):
        measure(scenario, folder, Fake({"cpu: x": 4}, respond=respond))
    kept = {path.name for path in (folder.path / "processes").iterdir()}
    assert len(kept) == 5
    fake = Fake({"cpu: x": 4})
    told, _ = measure(scenario, folder, fake)
    assert told.total == len(fake.started) == 32 - 5
    assert {row.status for row in peaks(folder).values()} == {"ok"}


def test_what_is_compared_with_each_other_is_measured_on_devices_that_are_alike(scenario, folder):
    fake = Fake({"cpu: x": 1, "cpu: y": 1})
    _, keys = measure(scenario, folder, fake)
    by_batch = {batch: {place for _, size, place in fake.started if size == batch} for batch in (1, 2, 4, 8)}
    assert all(len(places) == 1 for places in by_batch.values())
    assert set.union(*by_batch.values()) == {"cpu: x", "cpu: y"}
    assert keys == {"cpu: x, 1 thread": "cpu", "cpu: y, 1 thread": "cpu: y, 1 thread"}
    assert {row.target for row in peaks(folder).values()} == set(keys.values())
    for target in keys.values():
        for candidate in candidates(folder.rows(), target):
            assert {row.target for row in candidate.rows.values()} == {target}


def test_a_report_compares_within_a_device_and_shows_the_others_as_series(scenario, folder):
    fake = Fake({"cpu: x": 1, "cpu: y": 1}, respond=lambda process, place: answer((1.0 if place.name == "cpu: x" else 3.0,)))
    run.run(scenario, folder, run.Options(only="measure", formats=("md",), executor=fake), Silent())
    report = (folder.path / "report.md").read_text()
    assert "measured on: cpu, cpu: y, 1 thread" in report
    assert "Times measured on cpu." in report
    assert "Times measured on cpu: y, 1 thread." in report
    assert "*Measured on cpu: y, 1 thread.* " in report  # its verdicts are its own
    found = {row.batch: (row.target, row.value) for row in folder.rows() if row.metric == "step_seconds"}
    assert {target: round(value) for target, value in found.values()} == {"cpu": 1, "cpu: y, 1 thread": 3}
    assert folder.environment()["devices"] == {"cpu: x, 1 thread": "cpu", "cpu: y, 1 thread": "cpu: y, 1 thread"}


def test_a_resumed_run_goes_on_where_a_comparison_was_begun(scenario, folder):
    first = Fake({"cpu: x": 1, "cpu: y": 1})
    measure(scenario.model_copy(update={"measure": repeats(scenario, 1)}), folder, first)
    where = {(label, batch): place for label, batch, place in first.started}
    again = Fake({"cpu: y": 1, "cpu: x": 1})
    measure(scenario, folder, again)
    assert {(label, batch): place for label, batch, place in again.started} == where


def repeats(scenario, count):
    return scenario.measure.model_copy(update={"on_cpu": scenario.measure.on_cpu.model_copy(update={"repeats": count})})


def test_a_figure_is_never_of_two_devices(scenario, folder):
    """A run resumed where there is another processor: what that one timed is kept, and not mixed in."""
    measure(scenario.model_copy(update={"measure": repeats(scenario, 1)}), folder, Fake({"cpu: x": 1}, respond=lambda *_: answer((1.0,))))
    measure(scenario, folder, Fake({"cpu: y": 1}, respond=lambda *_: answer((9.0,))))
    times = [row for row in folder.rows() if row.metric == "step_seconds"]
    assert {row.target for row in times} == {"cpu"}
    assert [row.value for row in times] == pytest.approx([1.0] * 16)
    assert all(row.note.startswith("median of 1 process × 1 step") for row in times)
    assert {row.status for row in folder.rows() if row.metric == "noise_fraction"} == {"skipped"}


def test_rows_and_details_say_which_node_measured(scenario, folder):
    measure(scenario, folder, Fake({"cpu: x": 2}))
    row = next(row for row in folder.rows() if row.metric == "step_seconds")
    assert row.note.endswith("; on cpu: x 1")
    assert folder.details(row.point)["where"]["cluster_node"] == "cpu: x 1"
    assert folder.process(row.point, 2)["answer"]["where"]["device"] == "cpu: x, 1 thread"


def test_files_that_instruments_wrote_elsewhere_are_kept(scenario, folder):
    fake = Fake({"cpu: x": 1}, respond=lambda process, place: answer(files=dict.fromkeys(process.files, b"traced")))
    measure(scenario, folder, fake)
    traces = sorted((folder.path / "traces").iterdir())
    assert len(traces) == 16
    assert {path.read_bytes() for path in traces} == {b"traced"}
    assert "files" not in folder.process(peaks(folder)["head", 1].point, 1)["answer"]
    assert "files" not in folder.details(peaks(folder)["head", 1].point)


def test_a_device_that_is_gone_ends_the_run_and_not_its_points(scenario, folder):
    fake = Fake({"cpu: x": 1, "cpu: y": 1})

    def respond(process, place):
        fake.places = [one for one in fake.places if one.name != "cpu: y"] if len(fake.started) > 6 else fake.places
        return answer()

    fake.respond = respond
    with pytest.raises(HardwareError, match="processes were not run: no node is left"):
        measure(scenario, folder, fake)
    assert len(peaks(folder)) > 4


def test_points_with_unlike_devices_have_a_noise_of_their_own(scenario, folder):
    """The second round takes twice as long on one kind of device alone: no noise there, and none elsewhere."""
    fake = Fake(
        {"cpu: x": 1, "cpu: y": 1}, respond=lambda process, place: answer((1.0 + (process.number == 2) * (place.name == "cpu: y"),))
    )
    measure(scenario, folder, fake)
    floors = [row.value for row in folder.rows() if row.metric == "noise_fraction"]
    assert floors == pytest.approx([0] * 16, abs=1e-9)


def test_the_setting_of_a_comparison_is_all_but_the_method(scenario):
    found = {rounds.setting(point) for point in plan.points(scenario)}
    assert len(found) == 4


def test_an_instrument_that_failed_is_told_while_the_run_goes_on_and_stays_in_the_rows(scenario, folder):
    faults = {"timeline": {"status": "unsupported", "note": "no event tree"}}

    def respond(process, place):
        broken = process.number == 1 and (process.point.label, process.point.batch) == ("lora", 2)
        return answer(faults=faults) if broken else answer()

    told, _ = measure(scenario, folder, Fake({"cpu: x": 1}, respond=respond))
    words = "the instrument timeline failed (no event tree)"
    assert [note for note in told.notes if note] == [words]
    lost = [row for row in folder.rows() if row.source == "measured" and row.status == "unsupported"]
    assert {(row.label, row.batch, row.note) for row in lost} == {("lora", 2, words)}
    assert {"instruments_answered", "peak_weights_bytes"} <= {row.metric for row in lost}
