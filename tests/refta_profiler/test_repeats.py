"""Two runs of the same points, from samples made here: nothing is found where nothing is, and what was planted is found."""

import math
import random

import pytest
from worker_answers import answer

from refta_profiler import repeats
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder

LABELS = [f"method {number}" for number in range(6)]


def row(label):
    fields = {
        "point": label.replace(" ", "-"),
        "model": "m",
        "label": label,
        "method": "lora",
        "order": None,
        "rank": 4,
        "batch": 2,
        "seq": 8,
    }
    fields |= {"precision": "fp32", "checkpointing": False, "target": "cpu", "source": "measured"}
    return Row(**fields, metric="step_seconds", unit=METRICS["step_seconds"].unit, value=1.0)


class Kept:
    """What a run's folder kept of its processes; a real one takes ten milliseconds a file."""

    def __init__(self):
        self.answers = {}

    def write_process(self, point, number, asked, content):
        self.answers.setdefault(point, {})[number] = content

    def processes(self, point):
        return self.answers[point]


def run_folder(path, draw, *, rounds=4, noise=0.01, drift=0.0, slower=None, noisy=None):
    folder = RunFolder.create(path, "model: m\n") if path else Kept()
    for number in range(1, rounds + 1):
        moment = drift + draw.gauss(0, 0.05)  # what the machine does to a whole round
        for index, label in enumerate(LABELS):
            slowed = math.log(slower[1]) if slower and slower[0] == label else 0.0
            spread = noise * noisy[1] if noisy and label in noisy[0] else noise
            centre = math.log(1 + index) + moment + slowed + draw.gauss(0, spread)
            steps = [math.exp(centre + draw.gauss(0, spread / 10)) for _ in range(7)]
            folder.write_process(row(label).point, number, {}, answer(tuple(steps)))
    return folder


def held(first, second):
    return repeats.repeats(first, second, {(label,): (row(label), row(label)) for label in LABELS})


def test_two_runs_of_one_thing_are_the_same_also_on_a_machine_that_drifts(tmp_path):
    draw = random.Random(1)
    found = held(run_folder(tmp_path / "a", draw), run_folder(tmp_path / "b", draw, drift=0.3))
    assert {one.outcome for one in found.points} == {"same"}
    assert found.processes == (4, 4)
    assert found.drift_fraction == pytest.approx(math.expm1(0.3), abs=0.15)
    assert found.drifted  # rounds of one run differ by 5%, the runs by 35%


def test_a_tenth_more_time_in_one_method_is_found_and_only_there(tmp_path):
    draw = random.Random(2)
    found = held(run_folder(tmp_path / "a", draw), run_folder(tmp_path / "b", draw, slower=("method 3", 1.1)))
    assert {one.place[0]: one.outcome for one in found.points if one.outcome != "same"} == {"method 3": "slower"}
    (slow,) = (one for one in found.points if one.outcome == "slower")
    assert slow.relative_fraction == pytest.approx(0.1, abs=0.03)
    assert not found.drifted


@pytest.mark.parametrize("noisy", [None, (LABELS[:2], 10)])
def test_in_a_hundred_pairs_of_runs_a_false_alarm_is_raised_about_five_times(noisy):
    """Also where two methods are ten times noisier than the others: with one noise for all they raise 24 alarms."""
    draw, alarms = random.Random(3), 0
    for _ in range(100):
        pair = [run_folder(None, draw, rounds=3, noisy=noisy) for _ in "ab"]
        alarms += any(one.outcome != "same" for one in held(*pair).points)
    assert alarms <= 11  # more than that of 100 has a chance of 1% at 5% each


def test_points_timed_in_one_process_are_not_judged(tmp_path):
    draw = random.Random(4)
    found = held(run_folder(tmp_path / "a", draw, rounds=1), run_folder(tmp_path / "b", draw, rounds=1))
    assert {one.outcome for one in found.points} == {"unknown"}
    assert found.drift_floor_fraction is None


def test_runs_that_kept_no_samples_say_nothing(tmp_path):
    empty = [RunFolder.create(tmp_path / side, "model: m\n") for side in "ab"]
    assert held(*empty) is None
