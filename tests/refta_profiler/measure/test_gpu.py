"""What is said of the GPU, with a library in NVML's place; and that nothing is made up without it."""

import sys
from types import SimpleNamespace

import pytest

from refta_profiler.measure import gpu


class Fault(Exception):
    """The library's own error."""


def fake(**changes):
    found = {
        "NVMLError": Fault,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetTemperature": lambda handle, kind: 61,
        "nvmlDeviceGetPowerUsage": lambda handle: 350500,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x45,
        "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(violationTime={0: 7_000, 1: 0, 3: 0, 5: 0}[policy]),
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=77, usedGpuMemory=3 * 2**20)],
    }
    return SimpleNamespace(**{**found, **changes})


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda **changes: monkeypatch.setitem(sys.modules, "pynvml", fake(**changes))


def test_clocks_heat_and_throttling(nvml):
    nvml()
    assert gpu.conditions() == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_c": 61,
        "power_w": 350.5,
        "throttle_reasons": ["software power cap", "hardware thermal slowdown"],  # 1 is an idle GPU, which is none
        "throttled_ns": {"the power cap": 7_000, "heat": 0, "the board's limit": 0, "reliability": 0},
    }
    assert gpu.driver() == "580.1"


def test_throttling_between_two_readings_is_not_missed():
    """The GPU is idle when it is read; its counters went on meanwhile."""
    before = {"throttle_reasons": ["software power cap"], "throttled_ns": {"the power cap": 1_000_000_000, "heat": 5}}
    after = {"throttle_reasons": [], "temperature_c": 70, "throttled_ns": {"the power cap": 1_250_000_000, "heat": 5}}
    found = gpu.over(before, after)
    assert (found["throttle_reasons"], found["throttled_s"]) == (["software power cap"], {"the power cap": 0.25})
    assert (found["temperature_c"], found["before"]) == (70, before)


def test_nothing_is_made_up_of_readings_that_tell_nothing():
    assert gpu.over(None, None) is None
    unknown = {"unknown": gpu.ABSENT}
    assert gpu.over(unknown, unknown) == {**unknown, "before": unknown}
    untold = {"throttle_reasons": None, "throttled_ns": {}}
    assert "throttled_s" not in gpu.over(untold, untold) and gpu.over(untold, untold)["throttle_reasons"] is None


def test_every_rank_has_its_own_gpu(nvml, monkeypatch):
    """CUDA's numbers go by the order of CUDA_VISIBLE_DEVICES, NVML's do not."""
    clocks = {"nvmlDeviceGetTemperature": lambda handle, kind: 60 + handle}
    nvml(**clocks)
    assert [gpu.conditions(number)["temperature_c"] for number in (0, 1)] == [60, 61]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert [gpu.conditions(number)["temperature_c"] for number in (0, 1)] == [63, 61]


def test_all_gpus_that_the_ranks_take_are_looked_at(nvml):
    busy = {0: [], 1: [SimpleNamespace(pid=9, usedGpuMemory=2**20)]}
    nvml(nvmlDeviceGetComputeRunningProcesses=busy.get)
    assert (gpu.others(1), gpu.settle("refuse")) == ([], ("", ""))
    assert gpu.settle("warn", count=2) == ("note", "the GPUs are used by process 9 (1 MiB) on GPU 1")


def test_what_a_gpu_does_not_tell_is_none(nvml):
    def refuse(*_):
        raise Fault("not supported")

    nvml(nvmlDeviceGetPowerUsage=refuse, nvmlDeviceGetComputeRunningProcesses=refuse, nvmlDeviceGetViolationStatus=refuse)
    assert (gpu.conditions()["power_w"], gpu.conditions()["throttled_ns"]) == (None, {})
    assert gpu.others() is None


def test_without_the_library_or_a_driver_nothing_is_known(monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in gpu.conditions()["unknown"]
    assert (gpu.driver(), gpu.others(), gpu.settle("refuse")) == (None, None, ("", ""))
    nvml(nvmlInit=lambda: (_ for _ in ()).throw(Fault("no driver")))
    assert gpu.others() is None


@pytest.mark.parametrize(("setting", "what"), [("warn", "note"), ("refuse", "refuse"), ("wait", "note")])
def test_a_gpu_that_others_use(nvml, setting, what):
    nvml()
    found, words = gpu.settle(setting, sleep=lambda seconds: None)
    assert found == what
    assert "process 77 (3 MiB)" in words


def test_waiting_until_the_others_are_gone(nvml):
    slept = []
    nvml(nvmlDeviceGetComputeRunningProcesses=lambda handle: [] if len(slept) > 2 else [SimpleNamespace(pid=7, usedGpuMemory=None)])
    assert gpu.settle("wait", sleep=slept.append) == ("", "")
    assert len(slept) == 3
