"""A fresh process per point, with a time limit; a child that dies is a failure with its reason, never an exception."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refta_profiler import parallel
from refta_profiler.plan import Point

ALL = ("setup_memory", "time", "memory")  # a point's first process
TIME = ("time",)  # its others


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
    with tempfile.TemporaryDirectory(prefix="refta-profiler-") as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked = {"warmup": warmup, "steps": steps, "passes": list(passes), "instruments": list(instruments)}
        child = start(point, content(device, asked, files or {}), request, answer, stderr=subprocess.PIPE, threads=threads)
        try:
            _, errors = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return late(limit_s)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        return outcome(child.returncode, answer, errors.decode(errors="replace"))


def content(device: str, asked: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """What a request says beside its point and who asks."""
    return {"device": device, **asked, **{name: str(path.resolve()) for name, path in files.items()}}


def write(request: Path, point: Point, content: Mapping[str, Any], *, parent: int) -> None:
    """The request as the worker reads it; parent: the id of the process that starts the worker."""
    request.write_text(json.dumps({"parent": parent, "point": asdict(point), **content}), encoding="utf-8")


def start(
    point: Point, content: dict[str, Any], request: Path, answer: Path, *, stderr: Any, threads: int | None
) -> subprocess.Popen[bytes]:
    """A process that measures the point as `content` asks, and writes its answer."""
    write(request, point, content, parent=os.getpid())
    command = [sys.executable, "-m", "refta_profiler.measure.worker", str(request), str(answer)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment(point, threads))


def outcome(code: int, answer: Path, errors: str) -> dict[str, Any]:
    """The answer of a process that has ended, or how it ended."""
    if answer.exists():
        return json.loads(answer.read_text(encoding="utf-8"))
    return _died(code, errors)


def environment(point: Point, threads: int | None = None) -> dict[str, str]:
    """The child's environment: ours, with the allocator that the point asks for (both names: torch renamed the variable in 2.9).

    Ranks share the cores, as torchrun has them do, unless the threads of each are given; and gloo's talk over the loopback.
    """
    found = dict(os.environ)
    if point.allocator != "default":
        asked = "expandable_segments:True"
        found |= {"PYTORCH_CUDA_ALLOC_CONF": asked, "PYTORCH_ALLOC_CONF": asked}
    if ranks := parallel.read(point.parallel):
        found = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks.world)), "GLOO_SOCKET_IFNAME": "lo", **found}
    return found if threads is None else {**found, "OMP_NUM_THREADS": str(threads)}


def _died(code: int, errors: str) -> dict[str, Any]:
    if code == -signal.SIGKILL:
        return failure("oom", "killed by the system, as happens when memory runs out (signal 9)")
    if code < 0:
        return failure("error", f"ended by signal {-code} ({signal.Signals(-code).name})")
    last = errors.strip().splitlines()[-1] if errors.strip() else "nothing on its error output"
    return failure("error", f"the measuring process ended with code {code}: {last}")


def late(limit_s: float, who: str = "") -> dict[str, Any]:
    """The answer of a process that was ended since it was not done within its limit; who: which of several ranks were not."""
    return failure("error", f"took longer than {limit_s:.0f} s{f' ({who})' if who else ''}", late=True)


def failure(status: str, note: str, **more: Any) -> dict[str, Any]:
    return {"failure": {"status": status, "note": note, **more}}
