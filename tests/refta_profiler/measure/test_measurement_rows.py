"""measure/rows.py: what the processes of a point answered, or why they did not, as rows."""

import math
import random
from dataclasses import replace

import pytest
from real_steps import tiny
from worker_answers import answer, failure

from refta_profiler.categories import CATEGORIES
from refta_profiler.comparison import step_time
from refta_profiler.evidence import candidates
from refta_profiler.measure import rows
from refta_profiler.statistics import Noise, noise_of_points, timed

POINT = tiny("roberta-tiny", "lora")


def of(*answers):
    return {row.metric: row for row in rows.of_processes(POINT, "cpu", dict(enumerate(answers, start=1)))}


def test_every_value_is_a_row():
    found = of(answer((0.5, 0.7, 0.6)))
    assert (found["peak_allocated_bytes"].value, found["peak_allocated_bytes"].unit) == (1000, "B")
    assert found["step_seconds"].value == pytest.approx(0.6)
    assert found["backward_seconds"].value == pytest.approx(0.42)
    assert {row.source for row in found.values()} == {"measured"}
    assert found["step_seconds"].note == "median of 1 process × 3 steps"


def test_all_processes_count_alike():
    """2 is the cube root of 1 · 2 · 4; the deviation of the logarithms is ln 2, and t 4.30265: ln 2 / √3 × t = 1.7219 to both sides."""
    found = of(answer((1.0, 1.0, 9.0)), answer((2.0, 2.0), watched=False), answer((4.0, 4.0), watched=False))
    assert found["step_seconds"].value == pytest.approx(2.0)
    assert found["step_seconds"].note == "mean of the medians of 3 processes × 3 steps"
    ends = [found[f"step_seconds_{end}"] for end in ("low", "high")]
    assert [end.value for end in ends] == pytest.approx([2 * math.exp(-1.7219), 2 * math.exp(1.7219)], rel=1e-4)
    assert {end.note for end in ends} == {"Student's t over 3 processes"}


def test_an_interval_within_one_process_says_so():
    found = of(answer((1.0, 3.0)))
    assert (found["step_seconds_low"].value, found["step_seconds_high"].value) == pytest.approx((1.0, 3.0))
    assert found["step_seconds_low"].note == "within one process: a bootstrap over its steps, which knows no others"


def moments(draw, *, drift, noise):
    """What three processes of a point take, in rounds of which the machine drifts from one to the next."""
    return {number: [math.exp(moment + draw.gauss(0, noise)) for moment in drift] for number in range(4)}


def differ(found):
    """Whether the first two of some points are told apart, by the rows that they have."""
    processes = {number: {index: answer((one,)) for index, one in enumerate(times, start=1)} for number, times in found.items()}
    noises = noise_of_points([{number: timed(one) for number, one in processes.items()}], dict.fromkeys(found, "one setting"))
    made = [
        [*rows.of_processes(POINT, "cpu", one), rows.noise_row(POINT, "cpu", noises[number], len(one), "")]
        for number, one in list(processes.items())[:2]
    ]
    (one,), (other,) = (candidates(found, "cpu") for found in made)
    difference, noise, source = step_time(one, other)
    assert source == "measured"
    return abs(difference) > noise


def test_equal_points_are_told_apart_once_in_twenty_on_a_machine_that_drifts():
    """From answers to rows to a verdict's times; with the median of all steps, 14 of 100 pairs were."""
    draw, tries = random.Random(5), 250
    wrong = sum(differ(moments(draw, drift=[draw.gauss(0, 0.05) for _ in range(3)], noise=0.01)) for _ in range(tries))
    assert wrong / tries < 0.09  # more has a chance of 1% at 5%


def test_set_up_is_timed_where_no_instrument_watched_it():
    found = of(answer(setup_seconds=5.0), answer(setup_seconds=3.0, watched=False), answer(setup_seconds=4.0, watched=False))
    assert (found["setup_seconds"].value, found["setup_seconds"].note) == (3.5, "")
    alone = of(answer(setup_seconds=5.0))["setup_seconds"]
    assert (alone.value, alone.note) == (5.0, "timed under the memory profiler")


def test_a_sharded_model_is_said_to_be_set_up_on_the_cpu():
    processes = {1: answer(values={"setup_peak_bytes": 7})}
    found = {row.metric: row.note for row in rows.of_processes(replace(POINT, parallel="fsdp:2"), "h100", processes)}
    words = "on the CPU, from where FSDP2 shards the model"
    assert (found["setup_seconds"], found["setup_peak_bytes"]) == (f"{words}; timed under the memory profiler", words)


def test_a_failure_is_rows_without_values_and_with_the_reason():
    found = of(failure("oom", "killed"))
    assert list(found) == ["peak_allocated_bytes", "step_seconds"]
    assert {(row.value, row.status, row.note) for row in found.values()} == {(None, "oom", "killed")}


def test_a_later_process_that_fails_is_said_and_the_others_stand():
    found = of(answer((1.0,)), failure("error", "signal 11"), answer((4.0,), watched=False))
    assert found["step_seconds"].value == pytest.approx(2.0)
    assert found["step_seconds"].note == "mean of the medians of 2 processes × 1 step; process 2 failed: signal 11"


def test_a_busy_machine_and_a_slowed_gpu_are_said():
    busy = [
        {"others_fraction": 0.4, "steal_fraction": 0.0, "load_average": 3.0},
        {"others_fraction": None, "steal_fraction": None, "load_average": 3.0},
    ]
    found = of(answer(loads=busy, gpu={"throttle_reasons": ["software power cap"]}, gpu_others="the GPU is used by process 7 (3 MiB)"))
    assert found["step_seconds"].note.split("; ")[1:] == [
        "the machine was busy: other processes took 40% of its cores",
        "the GPU slowed itself: software power cap",
        "the GPU is used by process 7 (3 MiB)",
    ]


def loads(*others):
    return [{"others_fraction": one, "steal_fraction": 0.0, "load_average": 1.0} for one in others]


def test_a_machine_that_is_busy_during_short_steps_is_said():
    """Steps under 0.05 s know nothing of their own load; all of them together do."""
    found = of(answer((0.03,) * 3, loads=loads(None, None, None), load=loads(0.4)[0]))
    assert found["step_seconds"].note.endswith("; the machine was busy: other processes took 40% of its cores")


def test_a_burst_within_a_quiet_time_is_said():
    found = of(answer((0.5,) * 3, loads=loads(0.0, 0.8, 0.0), load=loads(0.05)[0]))
    words = "the machine was busy at times: other processes took over 30% of its cores in 1 of 3 steps"
    assert found["step_seconds"].note.endswith(f"; {words}")


def test_a_gpu_that_slowed_itself_between_two_readings_is_said():
    found = of(answer(gpu={"throttle_reasons": [], "throttled_s": {"the power cap": 0.25}}))
    assert found["step_seconds"].note.endswith("; the GPU slowed itself: the power cap for 250 ms")


def test_what_the_marks_cost_stands_beside_its_interval():
    """By hand: mean of ln 1.01 and ln 1.03, and 12.706 times half their difference."""
    found = of(answer((1.01, 1.03, 5.0), bare=[1.0, 1.0]))
    names = ("marks_fraction", "marks_fraction_low", "marks_fraction_high")
    assert [found[name].value for name in names] == pytest.approx([0.019951, -0.099513, 0.155264], abs=1e-5)
    assert found["marks_fraction"].note == "within noise at 95%; from 2 pairs of steps side by side"
    assert found["marks_fraction"].unit == "1"
    beyond = of(answer((1.101, 1.1, 1.099), bare=[1.0] * 3))["marks_fraction"]
    assert beyond.note.startswith("beyond noise")


def test_the_marks_of_one_pair_are_not_judged_and_of_none_not_told():
    found = of(answer((1.01,), bare=[1.0]))
    assert found["marks_fraction"].note == "from one pair of steps, which has no interval: not judged"
    assert "marks_fraction_low" not in found
    assert "marks_fraction" not in of(answer((1.01,)))


def test_an_instrument_that_failed_is_rows_without_values():
    faults = {"timeline": {"status": "unsupported", "note": "no event tree"}, "kernels": {"status": "error", "note": "RuntimeError: lost"}}
    found = of(answer(faults=faults))
    words = "the instrument timeline failed (no event tree); the instrument kernels failed (RuntimeError: lost)"
    answered = found["instruments_answered"]
    assert (answered.value, answered.status, answered.note) == (None, "error", words)
    lost = [found[f"peak_{name}_bytes"] for name in CATEGORIES]
    assert {(one.value, one.status, one.note) for one in lost} == {(None, "unsupported", "the instrument timeline failed (no event tree)")}
    assert found["peak_allocated_bytes"].value == 1000
    assert rows.fault_words({}) == ""


def test_the_noise_floor_or_why_there_is_none():
    found = rows.noise_row(POINT, "cpu", Noise(0.01, 10), 3, "")
    assert found.value == pytest.approx(0.018359, abs=1e-6)
    assert found.note == "95%; from 3 interleaved processes a point, 10 degrees of freedom"
    own = rows.noise_row(POINT, "cpu", Noise(0.01, 1, "of its processes alone"), 2, "")
    assert own.note == "95%; from 2 interleaved processes a point, 1 degree of freedom; of its processes alone"
    for none in (rows.noise_row(POINT, "cpu", Noise(0.01, 10), 1, "why"), rows.noise_row(POINT, "cpu", None, 2, "why")):
        assert (none.value, none.status) == (None, "skipped")
        assert none.note.endswith("differences of times are not judged (why)")
    assert rows.noise_row(POINT, "cpu", None, 2, "why").note.startswith("timed in 2 processes, too few of them side by side")
    assert rows.noise_row(POINT, "cpu", None, 1, "why").note.startswith("timed in one process")
