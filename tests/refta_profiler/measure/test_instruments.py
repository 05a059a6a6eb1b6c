"""All instruments on one step, as the measuring process runs them, and what becomes of one that fails."""

import errno
import functools
import json

import pytest
import torch
from real_steps import tiny

from refta_profiler import models, workload
from refta_profiler.errors import ProfilerError
from refta_profiler.measure import instruments, memory, rows


def test_all_of_them_on_one_point(tmp_path):
    work = workload.build(tiny("roberta-tiny", "refta/reconstruct"), torch.device("cpu"))
    step = functools.partial(workload.training_step, work)
    with models.without_packing():
        step()
        peak = memory.cpu_peak(work, step)
        found = instruments.details(work, step, trace=tmp_path / "p.trace.json.gz", history=tmp_path / "p.memory.pickle")
        assert memory.cpu_peak(work, step) == peak  # they leave nothing behind
    assert set(found) == {"timeline", "saved", "operators", "modules", "module_flops", "trace"}
    assert found["timeline"]["peak_bytes"] == peak
    assert found["trace"] == "p.trace.json.gz"
    assert [path.name for path in tmp_path.iterdir()] == [found["trace"]]
    assert json.loads(json.dumps(found)) == found


def test_a_full_disk_is_nobodys_fault_here(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(instruments.INSTRUMENTS, "timeline", full)
    with pytest.raises(OSError, match="No space left"):
        instruments.details(None, None, names=["timeline"])


def test_one_that_fails_says_why_and_the_others_go_on(monkeypatch):
    def broken(work, step, trace):
        raise RuntimeError("no such counter\nat all")

    monkeypatch.setitem(instruments.INSTRUMENTS, "timeline", broken)
    monkeypatch.setitem(instruments.INSTRUMENTS, "saved", lambda work, step, trace: {"saved": 1})
    work = workload.build(tiny("roberta-tiny", "head"), torch.device("cpu"))
    found = instruments.details(work, functools.partial(workload.training_step, work), names=["timeline", "saved"])
    assert found == {"timeline": {"reason": "RuntimeError: no such counter", "status": "error"}, "saved": 1}
    assert instruments.faults(found) == {"timeline": {"status": "error", "note": "RuntimeError: no such counter"}}


def test_memory_that_runs_out_under_an_instrument_is_no_error(monkeypatch):
    def large(work, step, files):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setitem(instruments.INSTRUMENTS, "timeline", large)
    faults = instruments.faults(instruments.details(None, None, names=["timeline"]))
    assert faults["timeline"]["status"] == "oom"
    point = tiny("roberta-tiny", "head")
    assert {row.status for row in rows.fault_rows(point, "cpu", faults)} == {"oom"}
    both = {**faults, "saved": {"status": "error", "note": "x"}}
    assert next(row.status for row in rows.fault_rows(point, "cpu", both) if row.metric == "instruments_answered") == "error"


def test_what_this_torch_has_not_is_unsupported(monkeypatch):
    def lacking(work, step, files):
        raise ProfilerError("torch 9 has no event tree")

    monkeypatch.setitem(instruments.INSTRUMENTS, "saved", lacking)
    found = instruments.details(None, None, names=["saved"])
    assert instruments.faults(found) == {"saved": {"status": "unsupported", "note": "ProfilerError: torch 9 has no event tree"}}
    assert instruments.faults({"module_flops": {"reason": "", "total": {}}, "timeline": {"peak_bytes": 1}}) == {}
