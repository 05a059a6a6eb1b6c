"""Peak memory: the running sum by hand, and the profiler on steps whose allocations are known."""

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.measure import memory


@pytest.mark.parametrize(("changes", "peak"), [([], 0), ([3, -1, 2], 4), ([-5, 2], 0), ([10, -10, 4, 7], 11)])
def test_highest_running_sum(changes, peak):
    assert memory.highest_sum(changes) == peak


def test_phases_have_their_own_highest_sums():
    assert memory.phase_sums([3, -1, "forward", 1, "backward", -1, 2, "optimizer"]) == {"forward": 3, "backward": 3, "optimizer": 4}


def test_a_phase_that_comes_twice_has_its_highest_sum():
    assert memory.phase_sums([1, "forward", 1, "backward", 5, "forward", -6, "backward"]) == {"forward": 7, "backward": 7}


@pytest.fixture(scope="module")
def work():
    return workload.build(tiny("roberta-tiny", "lora"), torch.device("cpu"))


def test_static_bytes_count_every_storage_once(work):
    parameters = {one.data_ptr(): one.nbytes for one in work.model.parameters()}
    buffers = {one.data_ptr(): one.nbytes for one in work.model.buffers()}
    batch = sum(one.nbytes for one in work.batch.values())
    assert memory.static_bytes(work) == sum(parameters.values()) + sum(buffers.values()) + batch


def test_the_peak_is_what_is_there_and_the_highest_sum_within_the_step(work):
    def step():
        first = torch.zeros(1000)
        second = torch.zeros(500, dtype=torch.float64)
        del first
        third = torch.zeros(100)
        del second, third

    assert memory.cpu_peak(work, step) == memory.static_bytes(work) + 4000 + 4000


def test_phases_split_where_they_are_marked(work):
    def step(mark):
        first = torch.zeros(1000)
        mark("forward")
        second = torch.zeros(100)
        del first
        mark("backward")
        del second
        mark("optimizer")

    static = memory.static_bytes(work)
    assert memory.cpu_peaks(work, step) == {
        "peak_allocated_bytes": static + 4400,
        "forward_peak_bytes": static + 4000,
        "backward_peak_bytes": static + 4400,
        "optimizer_peak_bytes": static + 400,
    }


def test_marks_allocate_nothing(work):
    workload.training_step(work)
    plain = memory.cpu_peak(work, lambda: workload.training_step(work))
    marked = memory.cpu_peaks(work, lambda mark: workload.training_step(work, mark))
    assert marked["peak_allocated_bytes"] == plain


def test_gradients_are_none_when_the_step_starts(work):
    workload.training_step(work)
    found = []
    memory.cpu_peak(work, lambda: found.extend(one.grad for one in work.model.parameters()))
    assert found
    assert set(found) == {None}


def test_the_optimizers_state_counts_once_it_is_there():
    fresh = workload.build(tiny("roberta-tiny", "lora"), torch.device("cpu"))
    before = memory.static_bytes(fresh)
    workload.training_step(fresh)
    trained = [one for one in fresh.model.parameters() if one.requires_grad]
    assert memory.static_bytes(fresh) - before == sum(2 * one.nbytes + 4 for one in trained)  # two moments and a step count


def test_the_profilers_chatter_goes_nowhere(capfd, work):
    memory.cpu_peak(work, lambda: torch.zeros(1))
    assert capfd.readouterr() == ("", "")


def readings(allocated, reserved, active):
    return {"allocated_bytes.all.peak": allocated, "reserved_bytes.all.peak": reserved, "active_bytes.all.peak": active}


def test_cuda_readings_at_the_ends_of_phases_make_the_peaks():
    read = [
        ("forward", readings(10, 20, 11)),
        ("backward", readings(15, 20, 16)),
        ("forward", readings(12, 24, 12)),
        ("", readings(3, 24, 3)),
    ]
    assert memory.cuda_summary(read) == {
        "peak_allocated_bytes": 15,
        "peak_reserved_bytes": 24,
        "peak_active_bytes": 16,
        "forward_peak_bytes": 12,
        "backward_peak_bytes": 15,
    }


def test_cuda_retries_are_those_of_the_step():
    before, after = {"num_alloc_retries": 2, "num_ooms": 1}, {"num_alloc_retries": 5, "num_ooms": 1}
    assert memory.cuda_counts(before, after) == {"allocator_retries": 3, "allocator_refusals": 0}


class FakeAllocator:
    """Counts as torch.cuda does: a peak since the last reset."""

    def __init__(self, monkeypatch):
        self.live = self.peak = 100
        for name in ("synchronize", "reset_peak_memory_stats", "memory_stats"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def synchronize(self):
        pass

    def reset_peak_memory_stats(self):
        self.peak = self.live

    def take(self, nbytes):
        self.live += nbytes
        self.peak = max(self.peak, self.live)

    def memory_stats(self):
        counts = {"num_alloc_retries": 0, "num_ooms": 0, "allocated_bytes.all.current": self.live}
        return {**readings(self.peak, 2 * self.peak, self.peak), **counts}


def test_a_cuda_steps_peaks_by_phase(monkeypatch, work):
    device = FakeAllocator(monkeypatch)

    def step(mark):
        for phase, sizes in {"forward": (50, -20), "backward": (10, -30), "optimizer": (5, -5)}.items():
            for size in sizes:
                device.take(size)
            mark(phase)

    found = memory.cuda_peaks(work, step)
    assert (found["static_bytes"], found["peak_allocated_bytes"], found["peak_reserved_bytes"]) == (100, 150, 300)
    assert [found[f"{phase}_peak_bytes"] for phase in workload.PHASES] == [150, 140, 115]


@pytest.mark.gpu
def test_cuda_peaks():
    fresh = workload.build(tiny("roberta-tiny", "refta/shared"), torch.device("cuda"))
    workload.training_step(fresh)
    found = memory.cuda_peaks(fresh, lambda mark: workload.training_step(fresh, mark))
    assert 0 < found["static_bytes"] < found["peak_allocated_bytes"] <= found["peak_reserved_bytes"]
    assert max(found[f"{phase}_peak_bytes"] for phase in workload.PHASES) == found["peak_allocated_bytes"]
    assert found["allocator_refusals"] == 0
