"""A point whose step is spread over ranks: a fresh process a rank, one answer of them all; one rank's failure ends the others."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refta_profiler import parallel
from refta_profiler.measure import isolate, memory_kills, scratch
from refta_profiler.plan import Point

GRACE_S = 5.0  # that the others get to say what they saw, once a rank has failed
POLL_S = 0.05
MOST_ON_CPU = 8  # ranks, or as many as there are cores
STATISTICS = ("peak_allocated_bytes", "peak_reserved_bytes", "static_bytes", "communicated_bytes")  # that are told rank by rank


@dataclass
class RankProcess:
    """One rank's process, where it answers, and what it says on its error output."""

    rank: int
    child: subprocess.Popen[bytes]
    answer: Path
    errors: Path
    kills: int | None  # memory_kills.count() from before it was started

    def outcome(self) -> dict[str, Any]:
        """What it answered, or how it ended."""
        return isolate.outcome(self.child.returncode, self.answer, isolate.said(self.errors), self.kills)


def refusal(point: Point, device: str) -> str:
    """Why the point's ranks do not fit this machine; '' where they do."""
    found = parallel.read(point.parallel)
    if found is None:
        return ""
    there = places(device)
    if found.world <= there:
        return ""
    needed = f"{found.world} {'GPUs' if device == 'cuda' else 'processes'}"
    return f"{parallel.words(point.parallel)} needs {needed}; {there_words(device, there)}"


def places(device: str) -> int:
    """How many ranks the machine takes: one a GPU; on a CPU one a core, or 8 where there are fewer."""
    import torch

    return torch.cuda.device_count() if device == "cuda" else max(MOST_ON_CPU, os.cpu_count() or 1)


def there_words(device: str, there: int) -> str:
    """'1 GPU is here', '8 at most are started on this CPU'."""
    return f"{there} GPU{'s are' if there != 1 else ' is'} here" if device == "cuda" else f"{there} at most are started on this CPU"


def too_many(point: Point, kind: str, needed: int, node: str, there: int) -> str:
    """Why no node of a cluster takes the point's ranks: 'DDP over 8 ranks needs 8 GPUs of one node; the largest, n1, has 4'."""
    what = {"cuda": "GPUs", "cpu": "CPUs"}[kind]
    return f"{parallel.words(point.parallel)} needs {needed} {what} of one node; the largest, {node}, has {there}"


def measure(point: Point, device: str, *, limit_s: float, asked: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """The ranks' common answer, as a single process gives it; {failure} with the first rank that failed and its reason.

    threads: of each rank; by default they share the cores.
    """
    found = parallel.read(point.parallel)
    assert found is not None
    with scratch.folder() as place:
        ranks: list[RankProcess] = []
        try:
            for rank in range(found.world):
                group = {"rank": rank, "world": found.world, "store": str(place / "store"), "limit_s": limit_s}
                content = {**asked, "device": device, "instruments": [], "group": group}
                ranks.append(start(place, point, content, rank, threads))
            late = wait(ranks, limit_s)
        finally:
            ended = end(ranks)
        if late:
            return isolate.late(limit_s, late)
        return together({one.rank: one.outcome() for one in ranks if one.rank not in ended}, found.world)


def start(place: Path, point: Point, content: dict[str, Any], rank: int, threads: int | None) -> RankProcess:
    """The process of one rank, its error output in a file."""
    request, answer, errors = (place / f"{name}-{rank}" for name in ("request.json", "answer.json", "errors.txt"))
    kills = memory_kills.count()
    with open(errors, "wb") as output:
        child = isolate.start(point, content, request, answer, stderr=output, threads=threads)
    return RankProcess(rank, child, answer, errors, kills)


def wait(ranks: Sequence[RankProcess], limit_s: float) -> str:
    """Until all are done, or shortly after one has failed; which ranks were not done within the limit, in words, or ''."""
    ends, graced = time.monotonic() + limit_s, False
    while running := [one for one in ranks if one.child.poll() is None]:
        if not graced and any(failed(one) for one in ranks if one.child.returncode is not None):
            ends, graced = min(ends, time.monotonic() + GRACE_S), True
        if time.monotonic() > ends:
            return "" if graced else f"{numbered([one.rank for one in running])} of {len(ranks)} not done"
        time.sleep(POLL_S)
    return ""


def failed(one: RankProcess) -> bool:
    """Whether an ended process gave no measurement."""
    return "failure" in one.outcome()


def numbered(ranks: Sequence[int]) -> str:
    """'rank 1', 'ranks 0, 1'."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def end(ranks: Sequence[RankProcess]) -> list[int]:
    """Kill what still runs; which ranks that were. They waited for one that had failed, and are not to blame."""
    running = [one for one in ranks if one.child.poll() is None]
    for one in running:
        isolate.end(one.child)
    return [one.rank for one in running]


def together(answers: dict[int, dict[str, Any]], world: int) -> dict[str, Any]:
    """One answer of all ranks: of every value the largest rank's, of every step the slowest rank's, and `ranks`, what each had."""
    broken = {rank: one["failure"] for rank, one in answers.items() if "failure" in one}
    if broken:
        return first_failure(broken, world)
    first, ranks = answers[0], [answers[rank] for rank in sorted(answers)]
    values = {name: max(one["values"][name] for one in ranks) for name in first["values"]}
    samples = [max(steps, key=lambda step: sum(step.values())) for steps in zip(*(one["samples"] for one in ranks), strict=True)]
    # a rank cannot tell the work of the others from other processes'
    loads = [{**load, "others_fraction": None} for load in first["loads"]]
    whole = {**first["load"], "others_fraction": None} if first.get("load") else {}
    bare = [max(steps) for steps in zip(*(one.get("bare", []) for one in ranks), strict=True)]
    told = [{name: one["values"][name] for name in STATISTICS if name in one["values"]} for one in ranks]
    return {
        **first,
        "values": values,
        "samples": samples,
        "loads": loads,
        "load": whole,
        "bare": bare,
        "gpu": conditions([one.get("gpu") for one in ranks]),
        "setup_seconds": max(one["setup_seconds"] for one in ranks),
        "ranks": told,
    }


def conditions(gpus: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Those of the first rank's GPU, with every reason for which a rank's GPU throttled: the slowest makes the step's time."""
    reasons = list(dict.fromkeys(reason for one in gpus for reason in (one or {}).get("throttle_reasons") or []))
    return {**(gpus[0] or {}), "throttle_reasons": reasons} if reasons else gpus[0]


def first_failure(broken: dict[int, dict[str, Any]], world: int) -> dict[str, Any]:
    """The failure that came first: a rank that was killed and could say nothing, else by its clock; the others lost their peer."""
    rank = min(broken, key=lambda one: (broken[one].get("at", 0.0), one))
    found = broken[rank]
    return {"failure": {**found, "note": f"rank {rank} of {world}: {found['note']}"}}
