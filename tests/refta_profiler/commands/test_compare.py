"""`compare` on two run folders written by hand."""

from dataclasses import replace

import pytest
from worker_answers import answer

from refta_profiler.commands import compare
from refta_profiler.errors import ScenarioError
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder

ENVIRONMENT = {"device": "cpu: one", "versions": {"torch": "2.13.0"}}


def row(metric, value, **changes):
    fields = {"point": "p", "model": "vit-tiny", "label": "lora", "method": "lora", "order": None, "rank": 4, "batch": 2, "seq": 197}
    fields |= {"precision": "fp32", "checkpointing": False, "target": "cpu", "source": "measured"}
    return Row(**{**fields, **changes}, metric=metric, unit=METRICS[metric].unit, value=value)


def times(middle, low, high):
    return [row("step_seconds", middle), row("step_seconds_p10", low), row("step_seconds_p90", high)]


@pytest.fixture
def make(tmp_path):
    made = []

    def write(rows, environment=None, scenario="model: vit-tiny\n"):
        folder = RunFolder.create(tmp_path / f"run{len(made)}", scenario)
        made.append(folder)
        folder.write_environment(environment or ENVIRONMENT)
        folder.order(["p"])
        folder.write_point("p", "measured", rows)
        folder.write_table()
        return folder.path

    return write


def test_a_run_against_itself_is_the_same(make):
    rows = [row("peak_allocated_bytes", 1000), *times(1.0, 0.9, 1.1)]
    answer = compare.command([make(rows), make(rows)], tolerance="0%")
    assert not answer.failed and "No number differs that can be told apart." in answer.text
    assert {one["metric"]: one["fraction"] for one in answer.data} == {"peak_allocated_bytes": 0, "step_seconds": 0}


def test_what_grew_is_named_and_fails_the_gate_beyond_its_tolerance(make):
    first, second = make([row("peak_allocated_bytes", 1000)]), make([row("peak_allocated_bytes", 1030)])
    answer = compare.command([first, second], tolerance="2%")
    assert answer.failed == "peak_allocated_bytes of lora, batch 2 of 197 on cpu (measured) grew by 3%, more than 2%"
    assert "+3%" in answer.text
    assert not compare.command([first, second], tolerance="5%").failed
    assert not compare.command([second, first], tolerance="0%").failed  # less is no failure


def test_more_bytes_sent_fail_the_gate(make):
    first, second = (make([row("communicated_bytes", value, parallel="ddp:2")]) for value in (1000, 2000))
    failed = compare.command([first, second], tolerance="2%").failed
    assert failed == "communicated_bytes of lora, batch 2 of 197, DDP over 2 ranks on cpu (measured) grew by 100%, more than 2%"


def test_a_time_counts_only_where_the_intervals_are_apart(make):
    first = make(times(1.0, 0.9, 1.1))
    near, far = make(times(1.08, 1.0, 1.2)), make(times(1.3, 1.2, 1.4))
    assert not compare.command([first, near], tolerance="2%").failed
    assert "step_seconds" in compare.command([first, far], tolerance="2%").failed
    assert "step_seconds" in compare.command([first, near, far], tolerance="2%").failed


def test_times_that_say_they_have_no_noise_floor_are_not_judged_however_far_apart(make):
    """As two loops profiled with `profile`, which keep no processes."""
    alone = replace(row("noise_fraction", 0.0), value=None, status="skipped", note="a loop is timed in one process")
    found = compare.command([make([*times(1.0, 0.9, 1.1), alone]), make([*times(2.0, 1.9, 2.1), alone])], tolerance="2%")
    assert not found.failed
    assert [one["told_apart"] for one in found.data if one["metric"] == "step_seconds"] == [False]
    assert "No number differs that can be told apart." in found.text
    assert "Measured times: points have no noise floor" in found.text


def processes(path, *seconds, point="p"):
    for number, one in enumerate(seconds, start=1):
        RunFolder.open(path).write_process(point, number, {}, answer((one, one)))
    return path


def test_times_whose_samples_were_kept_are_judged_by_their_processes(make):
    """Percentiles that lie apart say nothing where the processes differ by as much."""
    first = processes(make(times(1.0, 0.9, 1.1)), 1.0, 1.01, 0.99, 1.0)
    near, far = (processes(make(times(1.3, 1.2, 1.4)), *found) for found in ((1.0, 1.6, 1.0, 1.6), (1.30, 1.31, 1.29, 1.3)))
    same = compare.command([first, near], tolerance="2%")
    assert not same.failed
    assert "at 95% for all of them together: 1 same." in same.text
    found = compare.command([first, far], tolerance="2%")
    assert found.failed == "step_seconds of lora, batch 2 of 197 on cpu (measured) grew by 30%, more than 2%"
    assert "1 slower." in found.text
    (time,) = (one for one in found.data if one["metric"] == "step_seconds")
    assert time["told_apart"] and 0 < time["floor_fraction"] < time["relative_fraction"]


def test_times_of_one_process_are_not_judged(make):
    first, second = (processes(make(times(one, one, one)), one) for one in (1.0, 2.0))
    found = compare.command([first, second], tolerance="2%")
    assert not found.failed
    assert "as those timed in one process" in found.text
    assert "on a CPU measure.on_cpu.repeats" in found.text


def test_numbers_that_are_gone_are_named_and_fail_the_gate(make):
    """A point that ran out of memory has rows of two metrics; its static bytes are gone for the same reason."""
    kept = row("peak_allocated_bytes", 1000)
    there = [row("peak_allocated_bytes", 2000, batch=4), row("static_bytes", 500, batch=4), row("step_seconds", 1.0, batch=4)]
    broken = [replace(one, value=None, status="oom", note="out of memory") for one in there if one.metric != "static_bytes"]
    first, second = make([kept, *there]), make([kept, *broken])
    answer = compare.command([first, second], tolerance="1%")
    why = "lora, batch 4 of 197 on cpu (measured) has no number any more (oom: out of memory)"
    assert answer.failed == f"peak_allocated_bytes of {why}"
    assert "lora, batch 4 of 197  cpu  measured  3        oom: out of memory" in answer.text
    lost = {one["metric"]: (one["first"], one["second"], one["status"]) for one in answer.data if "status" in one}
    assert lost == {"peak_allocated_bytes": (2000, None, "oom"), "static_bytes": (500, None, "oom"), "step_seconds": (1.0, None, "oom")}
    assert not compare.command([first, second]).failed
    assert not compare.command([second, first], tolerance="1%").failed  # what is there for the first time is no loss


def test_points_that_were_not_run_fail_the_gate_too(make):
    rows = [row("peak_allocated_bytes", 1000, batch=batch) for batch in (1, 2, 4)]
    answer = compare.command([make(rows), make(rows[:1])], tolerance="1%")
    assert answer.failed == "peak_allocated_bytes of lora, batch 2 of 197 on cpu (measured) has no number any more (missing), and so 1 more"


def test_a_run_of_which_nothing_is_left_is_compared_all_the_same(make):
    rows = [row("peak_allocated_bytes", 1000)]
    answer = compare.command([make(rows), make([replace(rows[0], value=None, status="error", note="broke")])], tolerance="1%")
    assert "(error: broke)" in answer.failed


@pytest.mark.parametrize(
    ("environment", "scenario", "reason"),
    [
        ({**ENVIRONMENT, "device": "cpu: two"}, "model: vit-tiny\n", "the device (cpu: one and cpu: two)"),
        ({**ENVIRONMENT, "versions": {"torch": "2.11.0"}}, "model: vit-tiny\n", "the version of torch (2.13.0 and 2.11.0)"),
        (ENVIRONMENT, "model: vit-small\n", "the scenario"),
    ],
)
def test_unlike_runs_are_refused_with_the_reason_unless_it_is_asked_for(make, environment, scenario, reason):
    rows = [row("peak_allocated_bytes", 1000)]
    pair = [make(rows), make(rows, environment, scenario)]
    with pytest.raises(ScenarioError, match="differ in more than their results") as caught:
        compare.command(pair)
    assert reason in str(caught.value)
    assert reason in compare.command(pair, anyway=True).text


def test_bad_usage_is_a_message(make):
    rows = [row("peak_allocated_bytes", 1000)]
    with pytest.raises(ScenarioError, match="two RUN folders"):
        compare.command([make(rows)])
    with pytest.raises(ScenarioError, match="--tolerance: 'much'"):
        compare.command([make(rows), make(rows)], tolerance="much")
    other = [replace(rows[0], label="another")]
    with pytest.raises(ScenarioError, match="no point with the same numbers"):
        compare.command([make(rows), make(other)])
