"""Processes of this machine, one at a time, so that none disturbs another. The default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from refta_profiler.errors import HardwareError
from refta_profiler.measure import cluster, gpu, isolate, scratch
from refta_profiler.measure.executors import LOCAL, Answer, Place, Process, Settings
from refta_profiler.measure.forks import Forks
from refta_profiler.plan import Point

HERE = Place("this machine")


def make(settings: Settings) -> Local:
    """This machine; no setting is of use to it."""
    return Local()


class Local:
    """One process after the other."""

    name = LOCAL
    places: Sequence[Place] = (HERE,)

    def __init__(self) -> None:
        self.waiting: list[Process] = []
        self.forks = Forks()
        self.device = "cpu"

    def kind(self, wanted: str) -> str:
        """'cuda' or 'cpu'; HardwareError where a GPU is asked for and there is none."""
        if wanted == "cpu":
            return "cpu"
        import torch

        if torch.cuda.is_available():
            return "cuda"
        if wanted == "cuda":
            raise HardwareError("--device cuda: no CUDA device is here; leave it out to measure on the CPU, or use --only predict")
        return "cpu"

    def open(self, folder: Path, device: str) -> None:
        """The machine is there: how many ranks it takes depends on the kind of device. What killed drivers left in it goes."""
        self.device = device
        scratch.sweep()

    def refusal(self, point: Point, place: Place) -> str:
        """Why this machine does not take the point's ranks."""
        return cluster.refusal(point, self.device)

    def free(self, place: Place) -> int:
        """One process at a time."""
        return 1 - len(self.waiting)

    def submit(self, process: Process, place: Place) -> None:
        """Run when its end is asked for."""
        self.waiting.append(process)

    def ended(self) -> Iterator[tuple[Process, Place, Answer]]:
        """The answer of the process that was submitted, run now."""
        while self.waiting:
            process = self.waiting.pop(0)
            yield process, HERE, run(process, self.forks)

    def withdraw(self, unwanted: Callable[[Process], bool]) -> list[Process]:
        """None: a process that is handed over is the one that is run."""
        return []

    def spread(self, call: Callable[[Any], Any], groups: Sequence[Any]) -> None:
        """None: the cores of this machine do it."""

    def describe(self) -> dict[str, Any]:
        """Nothing beyond what is said of this machine."""
        return {}

    def close(self) -> None:
        """Nothing runs that was not waited for, and nothing is left that processes were forked from."""
        self.forks.close()


def run(process: Process, forks: Forks | None = None) -> Answer:
    """The answer of a process on this machine; a HardwareError where others use the GPU and the scenario refuses that.

    They are looked for before and after: `gpu_others` says who was there, or why that is not known. forks: what forks the process where it
    can be.
    """
    words, seen = before(process) if process.device == "cuda" else ("", False)
    found = spread_over_ranks(process) if process.point.parallel else one_process(process, forks)
    return after(process, found, words, seen=seen) if process.device == "cuda" else found


def before(process: Process) -> tuple[str, bool]:
    """What there is to say of others on the GPU before the process begins, and whether they were seen there."""
    what, words = gpu.settle(process.busy_gpu, count=process.ranks)
    if what == "refuse":
        raise HardwareError(words)
    return words, what == "note"


def after(process: Process, found: Answer, words: str, *, seen: bool) -> Answer:
    """The answer with what was said before, and who has come to the GPU since; a HardwareError where the scenario refuses that.

    A failure says `others` where any were seen, before or after: it may be theirs.
    """
    came = gpu.came(count=process.ranks)
    if came and process.busy_gpu == "refuse":
        raise HardwareError(f"{came} after a process of {process.point.label} had measured there: what it measured is not kept")
    told = "; ".join(dict.fromkeys(one for one in (words, f"{came} afterwards" if came and came != words else "") if one))
    if (seen or came) and "failure" in found:
        note = "; ".join(dict.fromkeys((found["failure"]["note"], came or words)))
        found = {**found, "failure": {**found["failure"], "note": note, "others": True}}
    return {**found, "gpu_others": told} if told else found


def one_process(process: Process, forks: Forks | None = None) -> Answer:
    """The answer of a step that one process makes, which is fresh where it cannot be forked (`not_forked` says why, where it should be).

    A forked one that was lost with what it was forked from has had a part of its time: the fresh one gets the rest.
    """
    if forks and (found := forks.measure(process)):
        return found
    took_s, why = (forks.took_s, forks.why) if forks else (0.0, "")
    limit_s = max(process.limit_s - took_s, 0.0)
    found = isolate.measure(process.point, process.device, limit_s=limit_s, files=process.files, threads=process.threads, **process.asked)
    if took_s and "late" in found.get("failure", {}):  # `limit_s` says what the fresh one had: with all of it, it may not be late
        late = isolate.late(process.limit_s, f"{took_s:.0f} s of them in a forked process that was lost")
        found = {**found, "failure": {**late["failure"], "limit_s": limit_s}}
    return {**found, "not_forked": why} if why else found


def spread_over_ranks(process: Process) -> Answer:
    """The common answer of the ranks that make a step; that it is skipped where this machine does not take so many."""
    if words := cluster.refusal(process.point, process.device):
        return isolate.failure("skipped", words)
    asked = dict(process.asked)
    return cluster.measure(process.point, process.device, limit_s=process.limit_s, asked=asked, threads=process.threads)
