"""What is said of the GPU, with a library in NVML's place; and that nothing is made up without it."""

import os
import sys
from types import SimpleNamespace

import pytest
from real_steps import tiny
from worker_answers import answer, failure

from refta_profiler.errors import HardwareError
from refta_profiler.measure import gpu
from refta_profiler.measure.executors import Process, local


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
        "nvmlDeviceGetHandleByUUID": {"GPU-0": 0, "GPU-1": 1, "MIG-2": 2}.get,
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
    monkeypatch.setattr(gpu, "cuda_uuid", str)
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


def by_uuid(known):
    """What NVML gives for a UUID: the library's own error where it does not know it."""

    def handle(name):
        if name not in known:
            raise Fault("Not Found")
        return known[name]

    return handle


def test_a_gpu_is_found_by_the_uuid_that_cuda_tells_of_its_number(nvml, monkeypatch):
    """NVML counts by PCI bus; CUDA by speed, by CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER."""
    monkeypatch.setattr(gpu, "cuda_uuid", ["b", "a", "c"].__getitem__)
    heat = {"nvmlDeviceGetTemperature": lambda handle, kind: 60 + handle}
    nvml(nvmlDeviceGetHandleByUUID=by_uuid({"GPU-a": 0, "GPU-b": 1, "MIG-c": 2}), **heat)
    assert [gpu.conditions(number)["temperature_c"] for number in (0, 1, 2)] == [61, 60, 62]


def test_a_gpu_that_nvml_does_not_know_is_said(nvml):
    nvml(nvmlDeviceGetHandleByUUID=by_uuid({}))
    assert gpu.conditions(1) == {"unknown": "not known: NVML has no GPU 1, which is CUDA's number 1 (Fault: Not Found)"}
    with pytest.raises(gpu.NotKnownError):
        gpu.others()


class Cuda:
    """The driver's library: its GPUs' UUIDs, in its order."""

    def __init__(self, *uuids):
        self.uuids = uuids

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, number):
        if number >= len(self.uuids):
            return 101
        device._obj.value = 40 + number
        return 0

    def cuDeviceGetUuid_v2(self, found, device):
        found[:] = bytes.fromhex(self.uuids[device.value - 40])
        return 0


def test_cudas_driver_tells_the_uuid(monkeypatch):
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Cuda("00" * 16, "0123456789abcdef0123456789abcdef"))
    assert gpu.cuda_uuid(1) == "01234567-89ab-cdef-0123-456789abcdef"
    with pytest.raises(gpu.NotKnownError, match=r"no GPU 2 .CUresult 101"):
        gpu.cuda_uuid(2)
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(f"{name}: cannot open")))
    with pytest.raises(gpu.NotKnownError, match=r"cannot be loaded .libcuda"):
        gpu.cuda_uuid(0)


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
    with pytest.raises(gpu.NotKnownError, match=r"does not tell who uses GPU 0 .Fault: not supported"):
        gpu.others()


def no_package(monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", None)


def no_driver(monkeypatch, nvml):
    nvml(nvmlInit=lambda: (_ for _ in ()).throw(Fault("Driver/library version mismatch")))


@pytest.mark.parametrize(
    ("without", "reason"), [(no_package, "pip install 'refta-profiler[gpu]'"), (no_driver, "does not start (Fault: Driver/library version")]
)
def test_without_the_library_or_a_driver_nothing_is_known_and_the_reason_is_said(monkeypatch, nvml, without, reason):
    without(monkeypatch, nvml)
    assert reason in gpu.conditions()["unknown"]
    assert reason in gpu.driver()
    assert ("nvidia-ml-py is not installed" in gpu.driver()) == (without is no_package)
    assert gpu.came() == ""
    for setting, wanted in (("warn", "unknown"), ("wait", "refuse"), ("refuse", "refuse")):
        what, words = gpu.settle(setting, sleep=lambda seconds: pytest.fail("waited for nothing"))
        assert what == wanted
        assert words.startswith("whether others use the GPU is not known: ")
        assert reason in words
        assert ("say `measure: {busy_gpu: warn}`" in words) == (wanted == "refuse")


def test_this_process_is_not_another(nvml):
    nvml(nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)])
    assert gpu.settle("refuse") == ("", "")


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


def on_a_gpu(monkeypatch, looks, found, setting="warn"):
    """The answer of a process on a GPU on which these others were seen, look by look."""
    seen = iter(looks)
    monkeypatch.setattr(gpu, "others", lambda count: next(seen))
    monkeypatch.setattr(gpu.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(local, "one_process", lambda process, forks: found)
    return local.run(Process(tiny("roberta-tiny", "head"), 1, "cuda", 300.0, {}, {}, setting))


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        ([[], []], None),
        ([[], ["process 7 (3 MiB)"], []], None),  # our own, which NVML told of a moment longer
        ([[], ["process 7 (3 MiB)"], ["process 7 (3 MiB)"]], "the GPU is used by process 7 (3 MiB) afterwards"),
        ([["process 7 (3 MiB)"]] * 3, "the GPU is used by process 7 (3 MiB)"),
        ([["process 7 (3 MiB)"], []], "the GPU is used by process 7 (3 MiB)"),
    ],
)
def test_others_are_looked_for_before_and_after(monkeypatch, looks, words):
    assert on_a_gpu(monkeypatch, looks, answer()).get("gpu_others") == words


def test_one_who_comes_while_that_is_refused_ends_the_run(monkeypatch):
    with pytest.raises(HardwareError, match=r"process 7 .3 MiB. after a process of head had measured there: what it measured is not kept"):
        on_a_gpu(monkeypatch, [[], *[["process 7 (3 MiB)"]] * 2], answer(), "refuse")


def test_out_of_memory_beside_others_says_so(monkeypatch):
    found = on_a_gpu(monkeypatch, [["process 7 (3 MiB)"]] * 3, failure("oom", "CUDA out of memory"))
    told = {"status": "oom", "note": "CUDA out of memory; the GPU is used by process 7 (3 MiB)", "others": True}
    assert found["failure"] == told
    left = on_a_gpu(monkeypatch, [["process 7 (3 MiB)"], []], failure("oom", "CUDA out of memory"))  # as ours ended
    assert left["failure"] == told
    alone = on_a_gpu(monkeypatch, [[], []], failure("oom", "CUDA out of memory"))
    assert alone["failure"] == {"status": "oom", "note": "CUDA out of memory"}
