"""A measuring process that crashes, is killed, hangs or says nothing is a failure with its reason."""

import json
import os
import sys
import time
from dataclasses import replace

import pytest
from live_processes import gone
from real_steps import tiny

from refta_profiler.measure import isolate, memory_kills
from refta_profiler.measure.executors import EXECUTOR
from refta_profiler.measure.instruments import INSTRUMENTS

POINT = tiny("roberta-tiny", "head")


def worker(monkeypatch, tmp_path, script):
    """Put a shell script in the place of the Python that measures; it gets -m, the module, the request and the answer."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(isolate.sys, "executable", str(path))


def measure(limit_s=30.0):
    return isolate.measure(POINT, "cpu", warmup=0, steps=1, passes=isolate.ALL, limit_s=limit_s)


@pytest.mark.parametrize(
    ("script", "status", "note"),
    [
        ("kill -SEGV $$", "error", "signal 11 (SIGSEGV)"),
        ("echo first >&2; echo the reason >&2; exit 3", "error", "code 3: the reason"),
        ("exit 0", "error", "code 0: nothing on its error output"),
    ],
)
def test_a_dead_worker_is_a_failure(monkeypatch, tmp_path, script, status, note):
    worker(monkeypatch, tmp_path, script)
    failure = measure()["failure"]
    assert failure["status"] == status
    assert note in failure["note"]


def test_a_worker_that_takes_too_long_is_killed(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    started = time.monotonic()
    failure = measure(limit_s=1.0)["failure"]
    assert time.monotonic() - started < 20
    assert failure == {"status": "error", "note": "took longer than 1 s", "late": True, "limit_s": 1.0}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("counts", "status", "words"),
    [
        ((3, 4), "oom", "killed by the system, since memory ran out"),
        ((3, 3), "error", "not by the kernel for want of memory: somebody or something else ended it; --retry-errors"),
        ((None, None), "error", "by whom is not known here"),
    ],
)
def test_a_kill_is_for_want_of_memory_where_the_kernel_counts_one(monkeypatch, tmp_path, counts, status, words):
    told = iter(counts)
    monkeypatch.setattr(memory_kills, "count", lambda: next(told))
    worker(monkeypatch, tmp_path, "kill -KILL $$")
    failure = measure()["failure"]
    assert failure["status"] == status
    assert words in failure["note"]


def test_the_end_of_what_a_dead_worker_said_is_kept(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, "echo first >&2; echo the reason >&2; exit 3")
    assert measure()["failure"]["traceback"] == "first\nthe reason\n"


def test_an_answer_that_cannot_be_written_is_not_the_points_failure(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, f"echo /tmp/x: No space left on device >&2; exit {isolate.NOT_WRITTEN}")
    failure = measure()["failure"]
    assert (failure["status"], failure["by"]) == ("error", EXECUTOR)
    assert failure["note"] == "the measuring process could not write its answer: /tmp/x: No space left on device"


def test_a_worker_that_has_answered_and_does_not_end_is_not_late(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, """echo '{"values": {}}' > "$4"; exec sleep 60""")
    assert measure(limit_s=0.5) == {"values": {}}


@pytest.mark.parametrize("end", ["exit 3", "sleep 60"])
def test_what_a_worker_has_started_does_not_hold_the_driver_up(monkeypatch, tmp_path, end):
    """It has the worker's error output open, and goes with a worker that is ended."""
    worker(monkeypatch, tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; {end}")
    started = time.monotonic()
    assert "failure" in measure(limit_s=0.5)
    assert time.monotonic() - started < 20
    grandchild = int((tmp_path / "pid").read_text())
    if end == "exit 3":
        os.kill(grandchild, 9)
    else:
        assert gone(grandchild)  # soon: the signal is sent, and a busy machine may let a process run to its end later


def test_an_interruption_kills_the_worker_and_goes_on_up(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    wait = isolate.subprocess.Popen.wait
    calls = []

    def interrupted(child, timeout=None):
        calls.append(child)
        if len(calls) == 1:
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return wait(child, timeout)

    monkeypatch.setattr(isolate.subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert calls[0].returncode == -9


def test_the_answer_is_what_the_worker_wrote(monkeypatch, tmp_path):
    worker(monkeypatch, tmp_path, f"""cp "$3" {tmp_path}/seen; echo '{{"values": {{"step_seconds": 1.5}}}}' > "$4" """)
    assert measure() == {"values": {"step_seconds": 1.5}}
    assert json.loads((tmp_path / "seen").read_text())["parent"] == os.getpid()


def test_a_real_worker_measures():
    assert sys.executable
    found = isolate.measure(
        tiny("roberta-tiny", "refta/shared"), "cpu", warmup=1, steps=2, passes=isolate.ALL, instruments=list(INSTRUMENTS), limit_s=300
    )
    assert "failure" not in found
    assert (len(found["samples"]), len(found["loads"]), len(found["bare"])) == (2, 2, 2)
    assert set(found["overhead"]) == {"time", "memory", "flops", *INSTRUMENTS}
    assert min(found["overhead"].values()) > 0
    assert found["values"]["peak_allocated_bytes"] > found["values"]["static_bytes"] > 0
    assert found["values"]["adapter_parameters"] == 2 * 5 * (32 + 32 + 1)
    assert found["operators"]


@pytest.mark.slow
def test_a_process_for_the_time_alone_measures_nothing_else():
    found = isolate.measure(tiny("roberta-tiny", "refta/shared"), "cpu", warmup=0, steps=3, passes=isolate.TIME, limit_s=300)
    assert len(found["samples"]) == 3
    assert (found["values"], found["bare"]) == ({}, [])
    assert found["setup_seconds"] > 0
    assert not found["setup_watched"]


def test_the_allocator_that_is_asked_for_is_set_in_the_measuring_process_alone(monkeypatch):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert "PYTORCH_ALLOC_CONF" not in isolate.environment(POINT)
    found = isolate.environment(tiny("roberta-tiny", "head", allocator="expandable_segments"))
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == found["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_a_shells_own_setting_of_the_allocator_reaches_no_measuring_process(monkeypatch):
    """A point's `default` would otherwise be measured under it, and set beside predictions for the default."""
    for name in isolate.ALLOCATOR:
        monkeypatch.setenv(name, "max_split_size_mb:64")
    assert not set(isolate.ALLOCATOR) & set(isolate.environment(POINT))
    assert isolate.unused_allocator("cuda").endswith(
        "of this shell is not used in measuring: the scenario's `allocator` says how it is set"
    )
    assert isolate.unused_allocator("cpu") == ""
    for name in isolate.ALLOCATOR:
        monkeypatch.delenv(name)
    assert isolate.unused_allocator("cuda") == ""


def test_the_threads_that_are_asked_for_are_the_processes_and_each_ranks(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a cluster sets it by what a task has in all
    ranks = replace(POINT, parallel="ddp:2")
    assert [isolate.environment(one)["OMP_NUM_THREADS"] for one in (POINT, ranks)] == ["7", "7"]
    assert [isolate.environment(one, 3)["OMP_NUM_THREADS"] for one in (POINT, ranks)] == ["3", "3"]
