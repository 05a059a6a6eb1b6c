"""Step times: medians and percentiles by hand, samples of real steps."""

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.measure import timing


@pytest.mark.parametrize(("ordered", "fraction", "value"), [([1, 2, 4], 0.5, 2), ([1, 2, 4], 0.9, 3.6), ([5], 0.1, 5), ([1, 3], 0.1, 1.2)])
def test_percentiles(ordered, fraction, value):
    assert timing._percentile(ordered, fraction) == pytest.approx(value)


def test_medians_of_the_step_and_of_its_phases():
    samples = [{"forward": f, "backward": b, "optimizer": 0.5} for f, b in ((1, 2), (3, 1), (2, 9))]
    found = timing.summary(samples)
    assert (found["forward_seconds"], found["backward_seconds"], found["optimizer_seconds"]) == (2, 2, 0.5)
    assert found["step_seconds"] == 4.5  # of 3.5, 4.5 and 11.5
    assert found["step_seconds_p10"] < found["step_seconds"] < found["step_seconds_p90"]


def test_warm_up_is_dropped_and_every_phase_timed(monkeypatch):
    steps = []
    step = workload.training_step
    monkeypatch.setattr(timing, "training_step", lambda work, *marks: (steps.append(len(marks)), step(work, *marks)))
    work = workload.build(tiny("roberta-tiny", "head", accumulate=2), torch.device("cpu"))
    found = timing.samples(work, warmup=2, steps=3)
    assert steps == [0, 0, 1, 1, 1]
    assert len(found) == 3
    assert all(set(one) == set(workload.PHASES) and min(one.values()) > 0 for one in found)
