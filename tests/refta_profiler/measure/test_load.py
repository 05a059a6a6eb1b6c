"""How busy the machine was, from counters written by hand and from its own."""

import multiprocessing
import os
import time

import pytest

from refta_profiler.measure import load
from refta_profiler.measure.load import Load, Moment


def test_others_are_what_is_busy_beyond_this_process(monkeypatch):
    monkeypatch.setattr(load.os, "cpu_count", lambda: 2)
    found = load.between(Moment(10.0, 100.0, 5.0, 1.0), Moment(20.0, 116.0, 6.0, 11.0))  # 16 s busy, 10 of them ours, of 20
    assert (found.others_fraction, found.steal_fraction) == (pytest.approx(0.3), pytest.approx(0.05))
    assert load.complaint(found) == "the machine was busy: other processes took 30% of its cores and its host took 5% (steal)"


def test_what_is_too_short_or_unknown_is_not_known():
    assert load.between(Moment(10.0, 100.0, 5.0, 1.0), Moment(10.01, 100.01, 5.0, 1.01)).others_fraction is None
    assert load.between(Moment(10.0, None, None, 1.0), Moment(20.0, None, None, 2.0)).steal_fraction is None
    assert load.complaint(Load(None, None, 1.0)) == ""


def test_a_burst_that_the_mean_hides_is_told_by_its_steps():
    steps = [Load(fraction, 0.0, 1.0) for fraction in (0.9, 0.31, 0.3, 0.0, None)]
    assert load.bursts(steps) == "the machine was busy at times: other processes took over 30% of its cores in 2 of 5 steps"
    assert load.bursts(steps[2:]) == ""


def test_a_system_without_proc(monkeypatch):
    monkeypatch.setattr(load.Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("/proc/stat")))
    assert load.counters() == (None, None)


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="Linux tells what its cores do")
def test_this_process_is_not_another():
    before = load.now()
    deadline = time.process_time() + 0.2
    while time.process_time() < deadline:
        pass
    found = load.between(before, load.now())
    assert 0 <= found.others_fraction <= 1
    assert found.load_average >= 0


def spin(seconds):
    deadline = time.process_time() + seconds
    while time.process_time() < deadline:
        pass


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="Linux tells what its processes do")
def test_children_are_not_others_while_they_live_and_when_they_have_ended():
    """As a DataLoader's workers: what one takes is this process's own, once, before and after it is waited for."""
    context = multiprocessing.get_context("fork")
    before, begun = load.now(), context.Event()
    child = context.Process(target=lambda: (spin(0.3), begun.set(), time.sleep(60)))
    child.start()
    begun.wait(30)
    living = load.now()
    child.terminate()
    child.join()
    ended = load.now()
    assert 0.29 <= living.own - before.own < 1.0
    assert -0.05 < ended.own - living.own < 0.2  # the kernel counts in hundredths


def test_children_that_cannot_be_asked_fail_nothing(monkeypatch):
    monkeypatch.setattr(load.multiprocessing, "active_children", lambda: 1 / 0)
    assert load.of_children() == 0.0
    monkeypatch.setattr(load.multiprocessing, "active_children", lambda: [multiprocessing.current_process()])
    monkeypatch.setattr(load.Path, "read_text", lambda *_, **__: "7 (a name) with) R too short")
    assert load.of_children() == 0.0
