"""A process ends where the one that started it is gone, and only there."""

import os
from types import SimpleNamespace

import pytest

from refta_profiler import orphans, processes

STARTED_BY = 7


@pytest.fixture(autouse=True)
def no_call_to_the_kernel(monkeypatch):
    monkeypatch.setattr(orphans.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(prctl=lambda *_: 0))
    monkeypatch.setattr(orphans.os, "_exit", lambda code: pytest.fail(f"ended with {code}"))


def test_a_parent_that_is_process_1_is_there(monkeypatch):
    """As the driver is in a container."""
    monkeypatch.setattr(orphans.os, "getppid", lambda: 1)
    orphans.die_with_parent(1)


@pytest.mark.parametrize("now", [1, 300])  # who takes an orphan over: the system, or a subreaper
def test_an_orphan_ends(monkeypatch, now):
    ended = []
    monkeypatch.setattr(orphans.os, "getppid", lambda: now)
    monkeypatch.setattr(orphans.os, "_exit", ended.append)
    monkeypatch.setattr(orphans.sys, "platform", "linux")
    orphans.die_with_parent(STARTED_BY)
    assert ended == [1]


def test_a_pools_processes_are_told_who_started_them(monkeypatch):
    made = {}
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda count, **options: made.update(options))
    processes.pool(1, processes.one_thread)
    assert (made["initializer"], made["initargs"]) == (processes.one_thread, (os.getpid(),))
