"""The allocator's history, on a fake allocator and, marked gpu, on a real one."""

import functools
import pickle

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.categories import CATEGORIES
from refta_profiler.errors import ProfilerError
from refta_profiler.measure import cuda_history, instruments, memory


@pytest.fixture
def history(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: asked.append("synchronize"))
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **settings: asked.append(settings["enabled"]))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"segments": [], "device_traces": [[{"action": "alloc", "size": 4}]]})
    return asked


def test_the_file_is_the_snapshot_and_recording_is_off_again(history, tmp_path):
    path = cuda_history.write_history(lambda: history.append("step"), tmp_path / "p.memory.pickle")
    assert pickle.loads(path.read_bytes())["device_traces"][0][0]["size"] == 4
    assert history == ["all", "step", "synchronize", None]
    assert list(tmp_path.iterdir()) == [path]


def test_a_step_that_fails_leaves_no_file_and_no_recording(history, tmp_path):
    def broken():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        cuda_history.write_history(broken, tmp_path / "p.memory.pickle")
    assert history == ["all", None]
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_cannot_is_named(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.cuda.memory, "_snapshot")
    with pytest.raises(ProfilerError, match="cannot record the history"):
        cuda_history.write_history(lambda: None, tmp_path / "p")


@pytest.mark.gpu
@pytest.mark.parametrize("label", ["refta/shared", "refta/reconstruct_stack"])
def test_all_instruments_on_a_gpu(label, tmp_path):
    work = workload.build(tiny("roberta-tiny", label, checkpointing=True), torch.device("cuda"))
    step = functools.partial(workload.training_step, work)
    step()
    peaks = memory.cuda_peaks(work, step)
    found = instruments.details(work, step, trace=tmp_path / "p.trace.json.gz", history=tmp_path / "p.memory.pickle")
    assert instruments.faults(found) == {}
    assert found["timeline"]["peak_bytes"] == peaks["peak_allocated_bytes"]
    assert set(found["timeline"]["at_peak"]) == set(CATEGORIES)
    assert found["timeline"]["at_peak"]["workspace"] >= 0
    assert found["saved"]["saved_bytes"] + found["saved"]["held_bytes"] == found["saved"]["kept_bytes"] > 0
    assert found["modules"]["clock"] == "device"
    assert found["operators"][0]["seconds"] > 0 and found["device_kernels"][0]["seconds"] > 0
    assert not {one["operator"] for one in found["operators"]} & {one["kernel"] for one in found["device_kernels"]}
    assert sum(row["own_seconds"] for row in found["modules"]["rows"]) > 0
    assert {path.name for path in tmp_path.iterdir()} == {found["trace"], found["history"]}
