"""Step times: medians and percentiles by hand, samples of real steps."""

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.measure import timing


def test_medians_of_the_step_and_of_its_phases():
    samples = [{"forward": f, "backward": b, "optimizer": 0.5} for f, b in ((1, 2), (3, 1), (2, 9))]
    found = timing.summary([samples])
    assert (found["forward_seconds"], found["backward_seconds"], found["optimizer_seconds"]) == (2, 2, 0.5)
    assert found["step_seconds"] == 4.5  # of 3.5, 4.5 and 11.5
    assert found["step_seconds_low"] <= 4.5 <= found["step_seconds_high"]
    assert found["step_seconds_p10"] < found["step_seconds"] < found["step_seconds_p90"]


def test_drift_cancels_in_the_ratio_of_two_methods():
    """Rounds 1, 1.2 and 2 times as slow for both. The median of all steps is 1.2 of the one and 1.43 of the other: of unlike rounds."""

    def of(*lengths):
        found = [[{"forward": factor * one, "backward": 0.0, "optimizer": 0.0} for one in lengths] for factor in (1.0, 1.2, 2.0)]
        return timing.summary(found)["step_seconds"]

    assert of(1.1, 1.1, 1.43) / of(1.0, 1.0, 1.0) == pytest.approx(1.1)


def test_warm_up_is_dropped_and_every_phase_timed(monkeypatch):
    steps = []
    step = workload.training_step
    monkeypatch.setattr(timing, "training_step", lambda work, *marks: (steps.append(len(marks)), step(work, *marks)))
    work = workload.build(tiny("roberta-tiny", "head", accumulate=2), torch.device("cpu"))
    found = timing.times(work, warmup=2, steps=3, bare=2)
    assert steps == [0, 0, 1, 0, 1, 0, 1]  # how many marks each step was given
    assert (len(found.samples), len(found.loads), len(found.bare)) == (3, 3, 2)
    assert all(set(one) == set(workload.PHASES) and min(one.values()) > 0 for one in found.samples)


def test_a_single_sample_has_no_interval():
    assert "step_seconds_low" not in timing.summary([[{"forward": 1.0, "backward": 2.0, "optimizer": 0.5}]])
