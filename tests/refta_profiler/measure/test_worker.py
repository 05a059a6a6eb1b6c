"""The measuring process: what it answers, and how failures are told apart."""

import errno
import json
import os
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from real_steps import measured, tiny

from refta import library
from refta.errors import SettingError
from refta_profiler import distributed, models, own_adapter, workload
from refta_profiler.measure import environment, instruments, isolate, timing, worker
from refta_profiler.measure.executors import EXECUTOR


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
        (MemoryError(), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "oom"),
        (RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"), "oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom"),
        (SettingError("rank: too large"), "unsupported"),
        (ValueError("something else\nwith more lines"), "error"),
    ],
)
def test_failures_are_told_apart(error, status):
    with pytest.raises(type(error)) as caught:
        raise error
    found = worker.describe_failure(caught.value)
    assert found["status"] == status
    assert "\n" not in found["note"]


def test_a_full_disk_is_not_the_points_failure():
    with pytest.raises(OSError) as caught:
        raise OSError(errno.ENOSPC, "No space left on device", "traces/x.json.gz")
    found = worker.describe_failure(caught.value)
    assert (found["status"], found["by"]) == ("error", EXECUTOR)
    assert "No space left on device: 'traces/x.json.gz'" in found["note"]


def test_an_answer_that_cannot_be_written_is_told_by_the_exit_code(tmp_path, capfd):
    assert worker.write({}, tmp_path / "gone" / "answer.json") == isolate.NOT_WRITTEN
    assert capfd.readouterr().err == f"{tmp_path}/gone: No such file or directory\n"


def test_an_error_says_where():
    try:
        raise ValueError("broken")
    except ValueError as error:
        found = worker.describe_failure(error)
    assert found["note"].startswith("ValueError: broken (")
    assert "by" not in found
    assert "test_worker.py" in found["note"]
    assert "Traceback" in found["traceback"]


def ask(tmp_path, point):
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    content = {"point": asdict(point), "device": "cpu", "warmup": 1, "steps": 1, "passes": isolate.ALL, "instruments": []}
    content |= {"parent": os.getppid()}
    request.write_text(json.dumps(content))
    assert worker.main([str(request), str(answer)]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    return json.loads(answer.read_text())


def test_its_numbers_are_those_of_the_instruments(tmp_path):
    point = tiny("llama-tiny", "refta/reconstruct")
    answer, real = ask(tmp_path, point), measured(point)
    found = answer["values"]
    assert found["peak_allocated_bytes"] == real.peak_allocated_bytes
    assert found["static_bytes"] == real.static_bytes
    assert found["forward_flops"] == real.flops_by_phase["forward"]
    assert found["step_flops"] == sum(real.flops_by_phase.values())
    assert found["trainable_parameters"] == real.trainable_parameters
    assert sum(answer["samples"][0].values()) > 0
    assert answer["setup_seconds"] > 0
    assert found["setup_peak_bytes"] >= sum(one.nbytes for one in workload.build(point, torch.device("cpu")).model.parameters())


@pytest.mark.parametrize(("how", "place"), [("fsdp:2", "cpu"), ("ddp:2", "cuda"), ("", "cuda")])
def test_only_what_is_to_be_sharded_is_set_up_beside_the_device(monkeypatch, how, place):
    """The batch is on the device in any case, and tells sharding where to go; all is made on the CPU here."""
    asked = {}

    def on_the_cpu(name):
        make = getattr(models, name)

        def made(point, device):
            asked[name] = str(device)
            return make(point, "cpu")

        monkeypatch.setattr(models, name, made)

    on_the_cpu("build")
    on_the_cpu("batch")
    monkeypatch.setattr(distributed, "spread", lambda work: work)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    worker._set_up(tiny("roberta-tiny", "head", parallel=how), torch.device("cuda"), models.build, memory=False)
    assert asked == {"build": place, "batch": "cuda"}


def test_no_import_is_within_the_set_up_that_is_timed(monkeypatch):
    calls = []
    attach = workload.attach
    monkeypatch.setattr(library, "load", lambda: calls.append("load"))
    monkeypatch.setattr(workload, "attach", lambda model, point: calls.append("attach") or attach(model, point))
    for label in ("lora", "refta/shared"):
        worker._set_up(tiny("roberta-tiny", label), torch.device("cpu"), models.build, memory=False)
    assert calls == ["load", "attach"] * 2


def test_set_up_on_a_gpu_is_waited_for(monkeypatch):
    calls = []
    make, draw = models.build, models.batch
    monkeypatch.setattr(models, "batch", lambda point, device: draw(point, "cpu"))
    monkeypatch.setattr(workload, "attach", lambda model, point: calls.append("attach") or SimpleNamespace(notes=[]))
    monkeypatch.setattr(distributed, "spread", lambda work: work)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    point = tiny("roberta-tiny", "head")
    worker._set_up(point, torch.device("cuda"), lambda point, device: make(point, "cpu"), memory=False)
    assert calls == ["wait", "attach", "wait"]


def test_the_users_own_module_is_imported_before_its_set_up_is_timed(monkeypatch):
    calls = []
    monkeypatch.setattr(own_adapter, "function_of", lambda point: calls.append("imported"))
    monkeypatch.setattr(workload, "attach", lambda model, point: calls.append("attach") or SimpleNamespace(notes=[]))
    point = replace(tiny("roberta-tiny", "head"), method="python", settings={"call": "mine:adapter", "arguments": {}})
    worker._set_up(point, torch.device("cpu"), models.build, memory=False)
    assert calls == ["imported", "attach"]


def test_each_instruments_work_is_waited_for_and_its_step_told_apart(monkeypatch):
    """What one leaves unfinished on a GPU is its own; its step is timed within it, without what it does afterwards."""
    work = workload.build(tiny("roberta-tiny", "lora"), torch.device("cpu"))
    clock = {"now": 0.0}

    def seconds_of(step, *, cuda):
        started = clock["now"]
        step()
        clock["now"] += 1.0
        return clock["now"] - started

    monkeypatch.setattr(timing, "seconds_of", seconds_of)
    times = timing.Times(samples=[{"forward": 1.0}], bare=[1.0])
    monkeypatch.setitem(instruments.INSTRUMENTS, "saved", lambda work, step, files: (step(), step(), {"saved": {}})[2])
    monkeypatch.setitem(instruments.INSTRUMENTS, "module_flops", lambda work, step, files: 1 / 0)
    found = worker._instruments(work, times, {"instruments": ["saved", "module_flops"]})
    assert found["step_overhead"] == {"memory": 1.0, "flops": 1.0, "saved": 1.0}
    assert found["overhead"] == {"time": 1.0, "memory": 2.0, "flops": 2.0, "saved": 3.0, "module_flops": 1.0}
    assert found["faults"]["module_flops"]["status"] == "error"


def test_a_gpu_is_read_before_and_after_the_steps(monkeypatch):
    read = [{"throttle_reasons": ["software power cap"]}, {"throttle_reasons": []}]
    monkeypatch.setattr(worker, "_set_up", lambda *_, **__: (None, {"values": {}}))
    monkeypatch.setattr(worker, "_gpu", lambda device: read.pop(0))
    monkeypatch.setattr(timing, "times", lambda *_, **__: timing.Times() if len(read) == 1 else pytest.fail("read at the wrong moments"))
    monkeypatch.setattr(environment, "where", lambda kind: {})
    asked = {"passes": isolate.TIME, "steps": 1, "warmup": 0}
    found = worker._measured(tiny("roberta-tiny", "head"), torch.device("cpu"), asked, models.build)
    assert found["gpu"] == {"throttle_reasons": ["software power cap"], "before": {"throttle_reasons": ["software power cap"]}}


@pytest.mark.parametrize(("kind", "cleared"), [("cuda", ["emptied"]), ("cpu", [])])
def test_what_set_up_left_in_a_gpus_cache_is_given_back_before_the_first_step(monkeypatch, kind, cleared):
    calls = []
    monkeypatch.setattr(worker, "_set_up", lambda *_, **__: calls.append("set up") or (None, {"values": {}}))
    monkeypatch.setattr(worker, "_gpu", lambda device: None)
    monkeypatch.setattr(worker.gc, "collect", lambda: calls.append("collected"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    monkeypatch.setattr(timing, "times", lambda *_, **__: calls.append("steps") or timing.Times())
    monkeypatch.setattr(environment, "where", lambda kind: {})
    worker._measured(tiny("roberta-tiny", "head"), torch.device(kind), {"passes": isolate.TIME, "steps": 1, "warmup": 0}, models.build)
    assert calls == ["set up", "collected", *cleared, "steps"]


def test_a_failure_is_an_answer_too(tmp_path):
    assert ask(tmp_path, tiny("llama-tiny", "head"))["failure"]["status"] == "unsupported"


def test_running_out_of_memory_is_an_answer_too(tmp_path):
    answer = ask(tmp_path, tiny("llama-tiny", "lora", batch=10**9, seq=64))
    assert answer["failure"]["status"] == "oom"
