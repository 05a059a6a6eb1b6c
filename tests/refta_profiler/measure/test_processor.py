"""The processor's clock, governor and limits, from files as Linux has them."""

import pytest

from refta_profiler.measure import processor


@pytest.fixture
def machine(tmp_path, monkeypatch):
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpufreq" / "scaling_governor").write_text("powersave\n")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Model X\ncpu MHz\t\t: 2300.500\n\nprocessor\t: 1\nmodel name\t: Y\n")
    monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "FREQUENCY", tmp_path / "cpufreq")
    monkeypatch.setattr(processor, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processor, "OWN_CGROUP", tmp_path / "own")
    return tmp_path


def test_clock_governor_and_cores_are_told(machine):
    found = processor.describe()
    assert (found["model"], found["mhz"], found["governor"]) == ("Model X", 2300.5, "powersave")
    assert found["quota_cores"] is None
    assert found["affinity"]


def test_the_quota_is_the_least_of_the_cgroup_and_those_above(machine):
    inner = machine / "cgroup" / "job" / "step"
    inner.mkdir(parents=True)
    (machine / "own").write_text("0::/job/step\n")
    (inner / "cpu.max").write_text("max 100000\n")
    assert processor.quota_cores() is None
    (machine / "cgroup" / "job" / "cpu.max").write_text("150000 100000\n")
    assert processor.quota_cores() == 1.5


def test_the_quota_of_the_older_cgroups(machine):
    inner = machine / "cgroup" / "cpu" / "docker"
    inner.mkdir(parents=True)
    (machine / "own").write_text("5:memory:/docker\n4:cpu,cpuacct:/docker\n")
    for name, value in (("cpu.cfs_quota_us", "200000"), ("cpu.cfs_period_us", "100000")):
        (inner / name).write_text(value)
    assert processor.quota_cores() == 2.0
    (inner / "cpu.cfs_quota_us").write_text("-1")
    assert processor.quota_cores() is None


def test_a_system_that_says_nothing_of_itself_is_no_error(machine):
    (machine / "cpuinfo").unlink()
    (machine / "cpufreq" / "scaling_governor").unlink()
    found = processor.describe()
    assert found["model"]
    assert (found["mhz"], found["governor"]) == (None, None)


def test_runs_of_cores_are_drawn_together():
    assert processor.ranges([5, 0, 2, 1]) == "0-2,5"
    assert processor.ranges([]) == ""
