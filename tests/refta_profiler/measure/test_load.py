"""How busy the machine was, from counters written by hand and from its own."""

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
