"""The GPU as it was found, by NVML (the package nvidia-ml-py, where it is installed): clocks, heat, throttling, who else uses it."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

ABSENT = "not known: the package nvidia-ml-py is not installed (pip install nvidia-ml-py)"
THROTTLES = {  # nvml.h, nvmlClocksEventReasons; idle and set clocks are no throttling
    0x0000000000000004: "software power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "hardware power brake",
}
POLICIES = {"the power cap": 0, "heat": 1, "the board's limit": 3, "reliability": 5}  # nvml.h, nvmlPerfPolicyType_t: for how long, each
PATIENCE_S = 600.0  # how long `busy_gpu: wait` waits
LOOK_S = 5.0  # and how often it looks


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """The library, ready; None where it is not there or there is no driver."""
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:  # ImportError, or the library's own error where there is no driver: both mean that nothing is known
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def conditions(number: int = 0) -> dict[str, Any]:
    """Clocks (MHz), temperature (°C), power (W) and reasons for throttling, now; {"unknown": reason} where NVML is not there.

    number: the GPU's among those that this process may use, as CUDA counts them.
    """
    with nvml() as library:
        if library is None:
            return {"unknown": ABSENT}
        handle = visible(library)[number]
        return {
            "sm_clock_mhz": ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
            "memory_clock_mhz": ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
            "temperature_c": ask(library, lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)),
            "power_w": ask(library, lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000),
            "throttle_reasons": ask(library, lambda: throttles(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
            "throttled_ns": throttled_ns(library, handle),
        }


def throttled_ns(library: Any, handle: Any) -> dict[str, int]:
    """Nanoseconds since the driver was loaded for which the GPU's clocks were held down, by POLICIES; without those that it does not count.

    The counters go on by themselves: two readings tell what lay between them, which the reasons of a moment do not.
    """
    told = {words: ask(library, lambda one=one: library.nvmlDeviceGetViolationStatus(handle, one)) for words, one in POLICIES.items()}
    return {words: int(one.violationTime) for words, one in told.items() if one is not None}


def over(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """The conditions after something, with those before it: the throttling of either, and `throttled_s`, seconds of it between them.

    None where there is no GPU; what neither tells is not there.
    """
    if before is None or after is None:
        return after
    told = [one["throttle_reasons"] for one in (before, after) if one.get("throttle_reasons") is not None]
    reasons = {"throttle_reasons": list(dict.fromkeys(reason for one in told for reason in one))} if told else {}
    first = before.get("throttled_ns", {})
    spent = {words: (last - first[words]) / 1e9 for words, last in after.get("throttled_ns", {}).items() if words in first}
    held = {"throttled_s": {words: seconds for words, seconds in spent.items() if seconds > 0}} if spent else {}
    return {**after, **reasons, **held, "before": before}


def visible(library: Any) -> list[Any]:
    """NVML's handles of the GPUs that this process may use, as CUDA counts them: NVML knows nothing of CUDA_VISIBLE_DEVICES."""
    named = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return [_handle(library, name) for name in named or map(str, range(library.nvmlDeviceGetCount()))]


def _handle(library: Any, name: str) -> Any:
    if name.startswith(("GPU-", "MIG-")):
        return library.nvmlDeviceGetHandleByUUID(name)
    return library.nvmlDeviceGetHandleByIndex(int(name) if name.isdigit() else 0)


def names() -> list[str]:
    """What the GPUs of this machine call themselves, those hidden from this process too; by nvidia-smi, which every driver brings."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


def ask(library: Any, question: Callable[[], Any]) -> Any:
    """The answer, None where this GPU or driver does not give it."""
    try:
        return question()
    except library.NVMLError:
        return None


def throttles(mask: int) -> list[str]:
    """The reasons for throttling that are set in NVML's mask: throttles(0x44) is a power cap and heat."""
    return [words for bit, words in THROTTLES.items() if mask & bit]


def driver() -> str | None:
    """The driver's version; None where NVML is not there."""
    with nvml() as library:
        return None if library is None else str(ask(library, library.nvmlSystemGetDriverVersion))


def others(count: int = 1) -> list[str] | None:
    """Processes that compute on the first so many GPUs, as 'process 123 (512 MiB)', of several GPUs with 'on GPU 1'; asked before ours do.

    None where NVML is not there, or tells of none of the GPUs.
    """
    with nvml() as library:
        if library is None:
            return None
        told = [ask(library, lambda one=one: library.nvmlDeviceGetComputeRunningProcesses(one)) for one in visible(library)[:count]]
        if all(found is None for found in told):
            return None
        return [
            f"process {one.pid} ({(one.usedGpuMemory or 0) // 2**20} MiB)" + (f" on GPU {number}" if count > 1 else "")
            for number, found in enumerate(told)
            for one in found or []
        ]


def settle(setting: str, *, count: int = 1, sleep: Callable[[float], Any] = time.sleep) -> tuple[str, str]:
    """What to do about GPUs that others use, by `busy_gpu`: ('', '') go on; ('note', words) go on and say so; ('refuse', words).

    count: how many GPUs the measurement takes, the first that this process may use.
    """
    found, waited = others(count), 0.0
    while found and setting == "wait" and waited < PATIENCE_S:
        sleep(LOOK_S)
        waited += LOOK_S
        found = others(count)
    if not found:
        return "", ""
    words = f"the GPU{'s are' if count > 1 else ' is'} used by {', '.join(found)}"
    if setting == "refuse":
        return "refuse", f"{words}; stop it, or say `measure: {{busy_gpu: warn}}`"
    return "note", words + (f", and still was after {PATIENCE_S:.0f} s" if setting == "wait" else "")
