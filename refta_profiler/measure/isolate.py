"""A fresh process per point, with a time limit; a child that dies is a failure with its reason, never an exception."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refta_profiler import parallel
from refta_profiler.measure import memory_kills, scratch
from refta_profiler.measure.executors import EXECUTOR
from refta_profiler.plan import Point

ALL = ("setup_memory", "time", "memory")  # a point's first process
TIME = ("time",)  # its others
END_S = 10.0  # how long a process that was killed may take to be gone: one that waits for a driver may never be
NOT_WRITTEN = 74  # exit code of a process whose answer could not be written (EX_IOERR of sysexits.h)
# by torch's names, old and new, and ROCm's
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")
TOLD = 4000  # characters of a dead process's error output that are kept


def measure(
    point: Point,
    device: str,
    *,
    warmup: int,
    steps: int,
    passes: Sequence[str],
    limit_s: float,
    instruments: Sequence[str] = (),
    files: Mapping[str, Path] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """The worker's answer: {values, samples, operators, …} or {failure: {status, note}}; instruments write what they keep in `files`.

    threads: that the process computes with; by default as many as torch takes by itself.
    """
    with scratch.folder() as folder:
        request, answer, errors = (folder / name for name in ("request.json", "answer.json", "errors.txt"))
        asked = {"warmup": warmup, "steps": steps, "passes": list(passes), "instruments": list(instruments)}
        kills = memory_kills.count()
        with open(errors, "wb") as output:  # a file: a pipe would be open as long as any process that the child has started lives
            child = start(point, content(device, asked, files or {}), request, answer, stderr=output, threads=threads)
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            end(child)
            return in_time(answer) or late(limit_s)
        except BaseException:
            end(child)
            raise
        return outcome(child.returncode, answer, said(errors), kills)


def content(device: str, asked: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """What a request says beside its point and who asks."""
    return {"device": device, **asked, **{name: str(path.resolve()) for name, path in files.items()}}


def write(request: Path, point: Point, content: Mapping[str, Any], *, parent: int) -> None:
    """The request as the worker reads it; parent: the id of the process that starts the worker."""
    request.write_text(json.dumps({"parent": parent, "point": asdict(point), **content}), encoding="utf-8")


def start(
    point: Point, content: dict[str, Any], request: Path, answer: Path, *, stderr: Any, threads: int | None
) -> subprocess.Popen[bytes]:
    """A process that measures the point as `content` asks, and writes its answer; the first of a group that `end` ends as a whole."""
    write(request, point, content, parent=os.getpid())
    command = [sys.executable, "-m", "refta_profiler.measure.worker", str(request), str(answer)]
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=stderr, env=environment(point, threads), process_group=0)


def end(child: subprocess.Popen[bytes]) -> None:
    """The child is killed with all that it has started, and waited for as long as that may take."""
    with contextlib.suppress(ProcessLookupError):  # nothing of the group is left
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it goes when that lets it, and nobody waits for it here
        child.wait(END_S)


def in_time(answer: Path) -> dict[str, Any] | None:
    """The answer, which appears whole, of a process that had to be ended; None where it had given none."""
    return json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else None


def said(errors: Path) -> str:
    """What the process wrote to its error output."""
    return errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""


def outcome(code: int, answer: Path, errors: str, kills: int | None) -> dict[str, Any]:
    """The answer of a process that has ended, or how it ended.

    kills: `memory_kills.count()` from before it was started.
    """
    return in_time(answer) or _died(code, errors, kills)


def environment(point: Point, threads: int | None = None) -> dict[str, str]:
    """The child's environment: ours, with the allocator that the point asks for and no other (both names: torch renamed it in 2.9).

    Ranks share the cores, as torchrun has them do, unless the threads of each are given; and gloo's talk over the loopback.
    """
    found = without_allocator(os.environ)
    if point.allocator != "default":
        asked = "expandable_segments:True"
        found |= {"PYTORCH_CUDA_ALLOC_CONF": asked, "PYTORCH_ALLOC_CONF": asked}
    if ranks := parallel.read(point.parallel):
        found = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks.world)), "GLOO_SOCKET_IFNAME": "lo", **found}
    return found if threads is None else {**found, "OMP_NUM_THREADS": str(threads)}


def without_allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what sets torch's CUDA allocator: a scenario's `allocator` says how it is set."""
    return {name: one for name, one in environment.items() if name not in ALLOCATOR}


def unused_allocator(device: str) -> str:
    """What there is to say of a shell that sets the allocator of GPUs, which measuring processes do without; '' where it sets none."""
    found = [f"{name}={os.environ[name]}" for name in ALLOCATOR if name in os.environ]
    if device != "cuda" or not found:
        return ""
    return f"{', '.join(found)} of this shell is not used in measuring: the scenario's `allocator` says how it is set"


def _died(code: int, errors: str, kills: int | None) -> dict[str, Any]:
    told = {"traceback": errors[-TOLD:]} if errors.strip() else {}
    if code == -signal.SIGKILL:
        return _killed(kills, told)
    if code < 0:
        return failure("error", f"ended by signal {-code} ({signal.Signals(-code).name})", **told)
    last = errors.strip().splitlines()[-1] if errors.strip() else "nothing on its error output"
    if code == NOT_WRITTEN:
        return failure("error", f"the measuring process could not write its answer: {last}", by=EXECUTOR, **told)
    return failure("error", f"the measuring process ended with code {code}: {last}", **told)


def _killed(kills: int | None, told: Mapping[str, str]) -> dict[str, Any]:
    """The failure of a process that a SIGKILL ended: out of memory where the kernel killed for that since, nobody's guess otherwise."""
    now = memory_kills.count()
    if kills is None or now is None:
        why = "by whom is not known here; where it was the system, memory ran out"
    elif now > kills:
        return failure("oom", "killed by the system, since memory ran out (signal 9)", **told)
    else:
        why = "not by the kernel for want of memory: somebody or something else ended it"
    return failure("error", f"killed (signal 9), {why}; --retry-errors measures it again", **told)


def late(limit_s: float, who: str = "") -> dict[str, Any]:
    """The answer of a process that was ended since it was not done within its limit; who: which of several ranks were not."""
    return failure("error", f"took longer than {limit_s:.0f} s{f' ({who})' if who else ''}", late=True, limit_s=limit_s)


def failure(status: str, note: str, **more: Any) -> dict[str, Any]:
    """The answer of a process that gave no measurement."""
    return {"failure": {"status": status, "note": note, **more}}
