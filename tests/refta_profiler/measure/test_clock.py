"""The clock of a loop's step: by hand on the host, and by events on a GPU that the host runs ahead of."""

import pytest
import torch
from fake_cuda import FakeCuda

from refta_profiler.measure.clock import Clock, CudaWatch, HostWatch, watch
from refta_profiler.measure.timing import REST

GPU = torch.device("cuda", 1)


def test_the_clocks_phases_add_up():
    ticks = iter([0, 0, 3, 10, 20, 21, 25, 28, 28])
    clock = Clock(HostWatch(lambda: next(ticks)))
    assert clock.backward() and not clock.backward()  # 3: forward took 3
    clock.backward_ends()  # 10: 7 of backward
    clock.forward()  # 20: ten seconds between, which count for nothing
    assert clock.backward()  # 21
    clock.backward_ends()  # 25
    assert clock.step_ends() == {"forward": 4, "backward": 11, "optimizer": 3}


def test_a_step_whose_phases_are_not_told_has_a_time():
    ticks = iter([0, 0, 3, 7, 9, 10])
    clock = Clock(HostWatch(lambda: next(ticks)))
    clock.tells_phases = False
    clock.backward()
    clock.backward_ends()
    assert clock.step_ends() == {"step": 10}


@pytest.fixture
def device(monkeypatch):
    return FakeCuda(monkeypatch)


def a_step(device, clock, *, loading=0.0):
    """Two accumulated passes, before the second of which the host loads data: forward 10 ms, backward 20 ms, then 5 ms of the optimizer."""
    for number in range(2):
        device.host += loading * number
        clock.forward()
        device.launch(0.010)
        clock.backward()
        device.launch(0.020)
        clock.backward_ends()
    device.launch(0.005)
    return clock.step_ends()


def test_a_step_on_a_gpu_is_waited_for_once_at_its_end(device):
    found = a_step(device, Clock(watch(GPU)))
    assert device.log == ["wait", *["mark"] * 7, "wait"]
    assert [found[phase] for phase in ("forward", "backward", "optimizer")] == pytest.approx([0.021, 0.040, 0.005])
    assert found[REST] == pytest.approx(0.001)  # until the host knew
    assert sum(found.values()) == pytest.approx(0.067)


def test_a_gpu_that_waits_for_data_does_not_count_for_the_step(device):
    found = a_step(device, Clock(watch(GPU)), loading=0.5)
    assert sum(found.values()) < 0.075


def test_a_gpus_marks_are_made_on_its_own_stream(device, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "current_stream", asked.append)
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    one = watch(GPU)
    one.mark()
    one.wait()
    assert isinstance(one, CudaWatch) and asked == [GPU, GPU]
    assert isinstance(watch(torch.device("cpu")), HostWatch)
