"""Processes of this machine, one at a time, so that none disturbs another. The default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from refta_profiler.errors import HardwareError
from refta_profiler.measure import cluster, gpu, isolate
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
        """The machine is there: how many ranks it takes depends on the kind of device."""
        self.device = device

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

    forks: what forks the process where it can be.
    """
    words = ""
    if process.device == "cuda":
        what, words = gpu.settle(process.busy_gpu, count=process.ranks)
        if what == "refuse":
            raise HardwareError(words)
    found = spread_over_ranks(process) if process.point.parallel else one_process(process, forks)
    return {**found, "gpu_others": words} if words else found


def one_process(process: Process, forks: Forks | None = None) -> Answer:
    """The answer of a step that one process makes, which is fresh where it cannot be forked."""
    if forks and (found := forks.measure(process)):
        return found
    return isolate.measure(
        process.point, process.device, limit_s=process.limit_s, files=process.files, threads=process.threads, **process.asked
    )


def spread_over_ranks(process: Process) -> Answer:
    """The common answer of the ranks that make a step; that it is skipped where this machine does not take so many."""
    if words := cluster.refusal(process.point, process.device):
        return isolate.failure("skipped", words)
    asked = dict(process.asked)
    return cluster.measure(process.point, process.device, limit_s=process.limit_s, asked=asked, threads=process.threads)
