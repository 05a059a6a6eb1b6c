"""Peak memory: the running sum by hand, and the profiler on steps whose allocations are known."""

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.measure import memory


@pytest.mark.parametrize(("changes", "peak"), [([], 0), ([3, -1, 2], 4), ([-5, 2], 0), ([10, -10, 4, 7], 11)])
def test_highest_running_sum(changes, peak):
    assert memory.highest_sum(changes) == peak


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


@pytest.mark.gpu
def test_cuda_peaks():
    fresh = workload.build(tiny("roberta-tiny", "refta/shared"), torch.device("cuda"))
    workload.training_step(fresh)
    found = memory.cuda_peaks(fresh, lambda: workload.training_step(fresh))
    assert 0 < found["static_bytes"] < found["peak_allocated_bytes"] <= found["peak_reserved_bytes"]
