"""What runs measuring processes: one file each, and the folder is the registry. Any of them answers to `Executor`.

The driver alone decides what is run next (turns.py) and writes the run folder; an executor runs what it is handed and gives the answers.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from refta_profiler import parallel
from refta_profiler.plan import Point

LOCAL = "local"
EXECUTOR = "executor"  # `by` of a failure that says nothing of its point, since what ran the process failed


@dataclass(frozen=True)
class Settings:
    """What the command line says of where to run; each executor reads its own."""

    address: str | None = None  # of a Ray cluster
    cpus: int = 1  # that a point on a CPU asks a cluster for, a rank each; and the threads that its process gets
    slurm: Mapping[str, str] = field(default_factory=dict)  # partition, time, account, and what else submitit takes
    own_modules: Sequence[str] = ()  # that the scenario's own code calls
    model: str = ""  # the scenario's: a folder of that name travels with the code


@dataclass(frozen=True)
class Process:
    """One measuring process of a point: what it is asked, and where the driver keeps the files that its instruments write."""

    point: Point
    number: int  # the round, from 1
    device: str  # cpu or cuda
    limit_s: float
    asked: Mapping[str, Any]  # warmup, steps, passes, instruments
    files: Mapping[str, Path]
    busy_gpu: str  # what to do about a GPU that others use
    threads: int | None = None  # of the process, or of each rank; None: as many as torch takes by itself

    @property
    def ranks(self) -> int:
        """How many devices it computes on."""
        return parallel.world(self.point.parallel)


@dataclass(frozen=True)
class Place:
    """Devices that are alike: what they are called, and the key that rows name them by (None: known from the answers alone)."""

    name: str
    key: str | None = None


Answer = dict[str, Any]  # a measuring process's; `files` of a remote one: what its instruments wrote, as bytes by name


class Executor(Protocol):
    """Runs measuring processes, one after the other or many at once."""

    name: str

    def kind(self, wanted: str) -> str:
        """'cpu' or 'cuda', which `wanted` ('auto' too) comes to; HardwareError, naming what there is, where it cannot be had."""
        ...

    def open(self, folder: Path, device: str) -> None:
        """Ready to run processes on that kind of device for the run in that folder."""
        ...

    @property
    def places(self) -> Sequence[Place]:
        """The unlike devices there are now."""
        ...

    def refusal(self, point: Point, place: Place) -> str:
        """Why the point cannot be run there, however long it waits: its ranks need more devices than are there; '' where it can."""
        ...

    def free(self, place: Place) -> int:
        """How many more processes the place takes now, each on one device: none where it is zero or less."""
        ...

    def submit(self, process: Process, place: Place) -> None:
        """The process is run there, now or soon."""
        ...

    def ended(self) -> Iterator[tuple[Process, Place, Answer]]:
        """What has ended, each once; waits until something has."""
        ...

    def withdraw(self, unwanted: Callable[[Process], bool]) -> list[Process]:
        """The unwanted processes that had not begun, which are taken back and never end."""
        ...

    def spread(self, call: Callable[[Any], Any], groups: Sequence[Any]) -> Iterator[tuple[Any, Any]] | None:
        """Every group with what the call answers of it, as they are ready; None where this machine's cores are to do it."""
        ...

    def describe(self) -> dict[str, Any]:
        """What environment.json says of it; empty of this machine, which is described there already."""
        ...

    def close(self) -> None:
        """What still runs is cancelled."""
        ...


def names() -> list[str]:
    """The executors there are, the default first."""
    return sorted((module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != LOCAL, name))


def make(name: str, settings: Settings) -> Executor:
    """The executor of that name (one of `names`); ScenarioError where its package is not installed, HardwareError where nothing answers."""
    return importlib.import_module(f"{__name__}.{name}").make(settings)
