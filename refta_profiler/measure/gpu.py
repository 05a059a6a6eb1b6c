"""The GPU as it was found, by NVML (the package nvidia-ml-py, where it is installed): clocks, heat, throttling, who else uses it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from refta_profiler.errors import in_a_line

ABSENT = "not known: the package nvidia-ml-py is not installed (pip install 'refta-profiler[gpu]')"
DRIVER = "libcuda.so.1"  # of CUDA, which every process that computes on a GPU has loaded
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
GONE_S = 1.0  # that NVML may still tell of a process that has ended
WITHOUT = "say `measure: {busy_gpu: warn}`"  # which goes on in any case


class NotKnownError(Exception):
    """What NVML cannot tell here, and why."""


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """The library, ready; NotKnownError where it is not installed or does not start, as without a driver."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        raise NotKnownError(ABSENT) from None
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise NotKnownError(f"not known: NVML does not start ({in_a_line(error)})") from error
    try:
        yield library
    finally:
        library.nvmlShutdown()


def conditions(number: int = 0) -> dict[str, Any]:
    """Clocks (MHz), temperature (°C), power (W) and reasons for throttling, now; {"unknown": reason} where NVML does not tell.

    number: the GPU's among those that this process may use, as CUDA counts them.
    """
    try:
        with nvml() as library:
            handle = handle_of(library, number)
            return {
                "sm_clock_mhz": ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
                "memory_clock_mhz": ask(library, lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
                "temperature_c": ask(library, lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)),
                "power_w": ask(library, lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000),
                "throttle_reasons": ask(library, lambda: throttles(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
                "throttled_ns": throttled_ns(library, handle),
            }
    except NotKnownError as error:
        return {"unknown": str(error)}


def handle_of(library: Any, number: int) -> Any:
    """NVML's handle of the GPU that CUDA counts so; NotKnownError where NVML has none.

    By its UUID: NVML counts by PCI bus and knows nothing of CUDA_VISIBLE_DEVICES, CUDA counts the fastest first unless CUDA_DEVICE_ORDER
    says otherwise, and takes shortened UUIDs.
    """
    name = cuda_uuid(number)
    for kind in ("GPU", "MIG"):  # a slice of a GPU has a UUID of its own
        try:
            return library.nvmlDeviceGetHandleByUUID(f"{kind}-{name}")
        except library.NVMLError as error:
            fault = error
    raise NotKnownError(f"not known: NVML has no GPU {name}, which is CUDA's number {number} ({in_a_line(fault)})")


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


def cuda_uuid(number: int) -> str:
    """The UUID of the GPU that CUDA counts so, by its driver and without a context: none of the GPU's memory is taken.

    NotKnownError where CUDA has no such GPU. From CUDA's driver API: cuInit, cuDeviceGet, cuDeviceGetUuid_v2 (a slice's own, from 11.4).
    """
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise NotKnownError(f"not known: CUDA's driver cannot be loaded ({error})") from error
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    calls = (lambda: cuda.cuInit(0), lambda: cuda.cuDeviceGet(ctypes.byref(device), number), lambda: get_uuid(found, device))
    for call in calls:
        if code := call():
            raise NotKnownError(f"not known: CUDA's driver has no GPU {number} (CUresult {code})")
    return str(uuid.UUID(bytes=bytes(found)))


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


def driver() -> str:
    """The driver's version; why it is not known, where NVML does not tell."""
    try:
        with nvml() as library:
            return str(ask(library, library.nvmlSystemGetDriverVersion))
    except NotKnownError as error:
        return str(error)


def others(count: int = 1) -> list[str]:
    """Processes that compute on the first so many GPUs, as 'process 123 (512 MiB)', of several with 'on GPU 1'; asked before ours do.

    NotKnownError where NVML does not tell of one of the GPUs. This process is left out, as far as it is known: in a container NVML tells
    the numbers that processes have outside.
    """
    found = []
    with nvml() as library:
        for number in range(count):
            handle = handle_of(library, number)
            try:
                there = library.nvmlDeviceGetComputeRunningProcesses(handle)
            except library.NVMLError as error:
                raise NotKnownError(f"not known: NVML does not tell who uses GPU {number} ({in_a_line(error)})") from error
            place = f" on GPU {number}" if count > 1 else ""
            found += [f"process {one.pid} ({(one.usedGpuMemory or 0) // 2**20} MiB){place}" for one in there if one.pid != os.getpid()]
    return found


def settle(setting: str, *, count: int = 1, sleep: Callable[[float], Any] = time.sleep) -> tuple[str, str]:
    """What to do about GPUs that others use, by `busy_gpu`: ('', '') go on; ('note', words) go on and say so; ('refuse', words).

    Where it is not known whether others use them, `wait` and `refuse` cannot be kept, and are refused; `warn` says so: ('unknown', words).
    count: how many GPUs the measurement takes, the first that this process may use.
    """
    waited = 0.0
    try:
        found = others(count)
        while found and setting == "wait" and waited < PATIENCE_S:
            sleep(LOOK_S)
            waited += LOOK_S
            found = others(count)
    except NotKnownError as error:
        words = f"whether others use the GPU{'s' if count > 1 else ''} is {error}"
        return ("unknown", words) if setting == "warn" else ("refuse", f"{words}; {WITHOUT}, instead of `{setting}`")
    if not found:
        return "", ""
    words = used(found, count)
    if setting == "refuse":
        return "refuse", f"{words}; stop it, or {WITHOUT}"
    return "note", words + (f", and still was after {PATIENCE_S:.0f} s" if setting == "wait" else "")


def came(count: int = 1) -> str:
    """Who uses the GPUs now that our process there has ended, in words; '' where nobody does, or it is not known, which `settle` has said.

    Looked at twice where there is anybody: our own may be told of a moment longer.
    """
    try:
        found = others(count)
        if found:
            time.sleep(GONE_S)
            found = others(count)
    except NotKnownError:
        return ""
    return used(found, count) if found else ""


def used(found: list[str], count: int) -> str:
    """'the GPU is used by process 123 (512 MiB)'."""
    return f"the GPU{'s are' if count > 1 else ' is'} used by {', '.join(found)}"
