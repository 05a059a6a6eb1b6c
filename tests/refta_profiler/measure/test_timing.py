"""Step times: medians and percentiles by hand, samples of real steps."""

import math

import pytest
import torch
from fake_cuda import FakeCuda
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
    assert steps == [0, 0, 1, 0, 0, 1, 1]  # how many marks each step was given: the two of a pair take turns
    assert (len(found.samples), len(found.loads), len(found.bare)) == (3, 3, 2)
    assert set(found.load) == set(found.loads[0])
    assert all(set(one) == set(workload.PHASES) and min(one.values()) > 0 for one in found.samples)


def a_step(device):
    """Two accumulated passes: forward 10 ms, backward 20 ms each, then 5 ms of the optimizer."""

    def step(work, mark=lambda phase: None):
        for _ in range(2):
            device.launch(0.010)
            mark("forward")
            device.launch(0.020)
            mark("backward")
        device.launch(0.005)
        mark("optimizer")

    return step


@pytest.fixture
def on_a_gpu(monkeypatch):
    device = FakeCuda(monkeypatch)
    monkeypatch.setattr(timing, "training_step", a_step(device))
    return device


def test_a_step_on_a_gpu_is_waited_for_once_at_its_end(on_a_gpu):
    sample = timing._timed(None, cuda=True)
    assert on_a_gpu.log == ["wait", "mark", "mark", "mark", "mark", "mark", "mark", "wait"]
    assert [sample[phase] for phase in workload.PHASES] == pytest.approx([0.021, 0.040, 0.005])  # the first launch is within forward
    assert sum(sample.values()) == pytest.approx(0.067)
    assert sample[timing.REST] == pytest.approx(0.001)  # until the host knew


def test_on_a_gpu_marks_cost_nothing(on_a_gpu):
    marked = sum(timing._timed(None, cuda=True).values())
    assert marked == pytest.approx(timing.seconds_of(lambda: timing.training_step(None), cuda=True))


def test_phases_of_a_gpu_need_not_sum_to_the_step():
    found = timing.summary([[{"forward": 1.0, "backward": 2.0, "optimizer": 0.5, timing.REST: 0.25}]])
    assert found["step_seconds"] == 3.75
    assert (found["forward_seconds"], found["backward_seconds"], found["optimizer_seconds"]) == (1.0, 2.0, 0.5)
    assert set(found) == {"step_seconds", "step_seconds_p10", "step_seconds_p90", *(f"{phase}_seconds" for phase in workload.PHASES)}


@pytest.mark.gpu
def test_real_steps_on_a_gpu_by_events():
    work = workload.build(tiny("roberta-tiny", "lora", accumulate=2), torch.device("cuda"))
    found = timing.times(work, warmup=2, steps=5, bare=5)
    for sample in found.samples:
        assert min(sample[phase] for phase in workload.PHASES) > 0
        assert -1e-4 < sample[timing.REST] < sum(sample.values())  # the two clocks may differ by some microseconds
    assert timing.marks_cost(found.samples, found.bare) is not None


def test_what_marks_cost_is_told_of_pairs():
    """ln 1.01 = 0.00995 and ln 1.03 = 0.02956: their mean is 0.01975, 12.706 times half their difference 0.12457."""
    samples = [{"forward": 1.0, "backward": 1.02}, {"forward": 1.0, "backward": 1.06}, {"forward": 9.0}]
    assert timing.marks_cost(samples, [2.0, 2.0]) == pytest.approx((0.01995, -0.09951, 0.15526), abs=1e-5)
    middle, low, _ = timing.marks_cost(samples, [2.02])
    assert (middle, math.isnan(low)) == (pytest.approx(0.0), True)
    assert timing.marks_cost(samples, []) is None


def test_an_instruments_step_is_timed_within_it(on_a_gpu):
    step = timing.TimedStep.__new__(timing.TimedStep)
    step.work, step.cuda, step.seconds = None, True, []
    ends = []
    step(ends.append)
    step()
    assert step.seconds == pytest.approx([0.067, 0.067])
    assert ends == ["forward", "backward", "forward", "backward", "optimizer"]


def test_a_single_sample_has_no_interval():
    assert "step_seconds_low" not in timing.summary([[{"forward": 1.0, "backward": 2.0, "optimizer": 0.5}]])
