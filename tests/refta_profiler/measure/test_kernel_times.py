"""The profiler's operators and modules of a real step, and its trace file."""

import functools
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.measure import kernels, modules


@pytest.fixture(scope="module")
def work():
    found = workload.build(tiny("roberta-tiny", "refta/shared", checkpointing=True), torch.device("cpu"))
    workload.training_step(found)
    return found


@pytest.fixture(scope="module")
def taken(work, tmp_path_factory):
    trace = tmp_path_factory.mktemp("trace") / "point.trace.json.gz"
    return kernels.kernels(work, functools.partial(workload.training_step, work), trace=trace), trace


def test_modules_have_forward_recomputed_and_backward_time(taken):
    rows = {one["module"]: one for one in taken[0]["rows"]}
    query = rows["roberta.encoder.layer.*.attention.self.query"]
    assert (query["modules"], query["calls"]) == (3, 3)
    assert query["forward_seconds"] > 0
    assert query["recompute_seconds"] > 0
    assert query["backward_seconds"] > 0
    assert rows["classifier"]["recompute_seconds"] == 0
    whole = rows["(model)"]
    assert all(whole[part] >= query[part] for part in ("forward_seconds", "recompute_seconds", "backward_seconds"))


def test_operators_are_torchs_own(taken):
    names = [one["operator"] for one in taken[0]["operators"]]
    assert "aten::addmm" in names
    assert not any(name.startswith("refta_profiler") for name in names)
    assert taken[0]["clock"] == "host"


def test_a_model_on_the_cpu_is_timed_by_the_host_where_there_is_a_gpu_too(work, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = kernels.kernels(work, functools.partial(workload.training_step, work))
    assert (found["clock"], found["kernels"]) == ("host", [])
    assert found["operators"][0]["seconds"] > 0 and found["rows"][0]["own_seconds"] > 0


def average(key, kind, seconds, *, device_seconds=0.0, annotation=False):
    times = {"self_cpu_time_total": seconds * 1e6, "self_device_time_total": device_seconds * 1e6}
    return SimpleNamespace(key=key, count=2, device_type=f"DeviceType.{kind}", is_user_annotation=annotation, **times)


def test_a_kernels_time_does_not_stand_among_operators():
    """An operator's time on the device is that of its kernels, and an annotation's is a span of both."""
    averages = [
        average("aten::mm", "CPU", 0.1, device_seconds=3.0),
        average("aten::add", "CPU", 0.2, device_seconds=1.0),
        average("gemm", "CUDA", 0.0, device_seconds=3.0),
        average("elementwise", "CUDA", 0.0, device_seconds=1.0),
        average("Optimizer.step#AdamW.step", "CUDA", 0.0, device_seconds=4.0, annotation=True),
        average(f"{modules.OURS}: module", "CUDA", 0.0, device_seconds=4.0),
    ]
    found = kernels.operators(averages, cuda=True, count=15)
    assert [(one["operator"], one["seconds"]) for one in found] == [("aten::mm", 3.0), ("aten::add", 1.0)]
    found = kernels.device_kernels(averages, count=1)
    assert found == [{"kernel": "gemm", "calls": 2, "seconds": 3.0}]
    assert [one["operator"] for one in kernels.operators(averages, cuda=False, count=1)] == ["aten::add"]


def test_the_trace_is_a_chrome_trace_and_nothing_else_is_left(taken):
    _, trace = taken
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    assert any(event.get("name") == "aten::addmm" for event in events)
    assert list(trace.parent.iterdir()) == [trace]


def test_a_name_that_is_not_packed_is_refused(work, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.json\.gz"):
        kernels.kernels(work, lambda: None, trace=tmp_path / "trace.json")


def test_hooks_are_gone_afterwards(work, taken):
    assert not any(module._forward_pre_hooks for module in work.model.modules())


@pytest.mark.parametrize(
    ("free", "error", "words"), [(2**20, OSError, "No space left"), (2**30, RuntimeError, "the profiler wrote no whole trace")]
)
@pytest.mark.parametrize("content", [None, "", '{"traceEvents": [{"ph": "X"'])
def test_a_trace_that_was_cut_short_is_none(monkeypatch, tmp_path, content, free, error, words):
    """What writes it only logs that it could not."""

    def cut(path):
        if content is not None:
            Path(path).write_text(content)

    monkeypatch.setattr(kernels.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(error, match=words):
        kernels.write_trace(SimpleNamespace(export_chrome_trace=cut), tmp_path / "t.json.gz")
    assert list(tmp_path.iterdir()) == []
