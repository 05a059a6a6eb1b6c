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


def conditions() -> dict[str, Any]:
    """Clocks (MHz), temperature (°C), power (W) and reasons for throttling, now; {"unknown": reason} where NVML is not there."""
    with nvml() as library:
        if library is None:
            return {"unknown": ABSENT}
        handle = first_visible(library)
        return {
            "sm_clock_mhz": ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
            "memory_clock_mhz": ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
            "temperature_c": ask(library, lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)),
            "power_w": ask(library, lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000),
            "throttle_reasons": ask(library, lambda: throttles(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        }


def first_visible(library: Any) -> Any:
    """NVML's handle of the GPU that this process measures on: it knows nothing of CUDA_VISIBLE_DEVICES, which names the first one."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return library.nvmlDeviceGetHandleByUUID(first)
    return library.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


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


def others() -> list[str] | None:
    """Processes that compute on the GPU, as 'process 123 (512 MiB)'; asked before ours do. None where NVML is not there."""
    with nvml() as library:
        if library is None:
            return None
        handle = first_visible(library)
        found = ask(library, lambda: library.nvmlDeviceGetComputeRunningProcesses(handle))
        return None if found is None else [f"process {one.pid} ({(one.usedGpuMemory or 0) // 2**20} MiB)" for one in found]


def settle(setting: str, *, sleep: Callable[[float], Any] = time.sleep) -> tuple[str, str]:
    """What to do about a GPU that others use, by `busy_gpu`: ('', '') go on; ('note', words) go on and say so; ('refuse', words)."""
    found, waited = others(), 0.0
    while found and setting == "wait" and waited < PATIENCE_S:
        sleep(LOOK_S)
        waited += LOOK_S
        found = others()
    if not found:
        return "", ""
    words = f"the GPU is used by {', '.join(found)}"
    if setting == "refuse":
        return "refuse", f"{words}; stop it, or say `measure: {{busy_gpu: warn}}`"
    return "note", words + (f", and still was after {PATIENCE_S:.0f} s" if setting == "wait" else "")
