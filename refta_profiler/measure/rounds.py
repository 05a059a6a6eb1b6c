"""A point's measuring processes: what each round is asked, what was answered and is kept, and what is not run and why.

Round 1 measures everything of a point, later rounds its time alone. What each process answered is kept (processes/), and a point's rows
are made from all of its answers that are from one device.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from refta_profiler.devices import named_device
from refta_profiler.measure import isolate, rows
from refta_profiler.measure.executors import Answer, Place, Process
from refta_profiler.plan import Point
from refta_profiler.run_folder import RunFolder, write_whole
from refta_profiler.scenario import Measure
from refta_profiler.statistics import alike

GPU_LIMIT_S = 900.0  # for one process
LEAST_S = 60.0  # that a process gets on a CPU however little of the budget is left
OOMS = 2  # of one method, after which its larger batches are not tried
TIMED = ("samples", "loads", "bare", "gpu", "gpu_others", "setup_seconds", "setup_watched")
RAW = ("values", "afterwards", "ranks", "where", "failure", *TIMED)  # what rows are made of
FILES = {"kernels": ("trace", ".json.gz"), "history": ("history", ".memory.pickle")}  # by instrument: what it is called, how it ends
UNKNOWN = ""  # the device of an answer that does not say it: one from before answers did, or of a process that died


@dataclass
class Stage:
    """One measuring of points on devices of one kind, 'cuda' or 'cpu'; `key` is what rows call the one that is this machine's."""

    measure: Measure
    folder: RunFolder
    device: str
    key: str
    progress: Any
    started: float = field(default_factory=lambda: time.monotonic())
    ooms: Counter[tuple] = field(default_factory=Counter)
    keys: dict[str, str] = field(default_factory=dict)  # what rows call the devices met so far, by what these call themselves

    @property
    def settings(self) -> Any:
        """Warm-up, steps and repeats of the device at hand."""
        return self.measure if self.device == "cuda" else self.measure.on_cpu

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left; a GPU has none to keep."""
        return math.inf if self.device == "cuda" else self.measure.on_cpu.budget_s - (time.monotonic() - self.started)

    def asked(self, number: int) -> dict[str, Any]:
        """What a process of that round is asked: a stored answer to something else is not taken up."""
        first = number == 1
        passes, instruments = (isolate.ALL, self.measure.instruments) if first else (isolate.TIME, [])
        instruments = [*instruments, *(["history"] if first and self.device == "cuda" and "timeline" in instruments else [])]
        return {"warmup": self.settings.warmup, "steps": self.settings.steps, "passes": list(passes), "instruments": list(instruments)}

    def key_of(self, answer: Answer) -> str:
        """What rows call the device that answered: a GPU by its key, the first processor `cpu` and one unlike it by its own name."""
        device = device_of(answer)
        if device == UNKNOWN:
            return self.key
        if device not in self.keys:
            kind, _, name = device.partition(": ")
            known = named_device(name) if kind == "cuda" else kind
            self.keys[device] = device.lower() if kind == "cpu" and known in self.keys.values() else known
        return self.keys[device]


def device_of(answer: Answer) -> str:
    """What the device that the answer is from calls itself."""
    return answer.get("where", {}).get("device", UNKNOWN)


def jobs(stage: Stage, points: Sequence[Point]) -> Iterator[tuple[Point, int]]:
    """The point and round of every process that is still to be run, round by round."""
    for number in range(1, stage.settings.repeats + 1):
        for point in points:
            if answer(stage, point, number) is None and not final(stage, point, number):
                yield point, number


def answer(stage: Stage, point: Point, number: int) -> dict[str, Any] | None:
    """What the point's process of that round answered; None where none was run, or one with other settings."""
    content = stage.folder.process(point.id, number)
    return content["answer"] if content and content["asked"] == stage.asked(number) else None


def final(stage: Stage, point: Point, number: int) -> bool:
    """Whether there is nothing to run in that round: the point has rows that no process of ours gave, or its first process failed."""
    if not stage.folder.finished(point.id, "measured"):
        return False
    first = stage.folder.process(point.id, 1)
    return first is None or (number > 1 and "failure" in first["answer"])


def process(stage: Stage, point: Point, number: int, left: float) -> Process:
    """What the point's process of that round is asked, with what is left of the budget for its limit."""
    asked = stage.asked(number)
    files = {
        name: stage.folder.trace_path(point.id, end) for instrument, (name, end) in FILES.items() if instrument in asked["instruments"]
    }
    limit_s = GPU_LIMIT_S if stage.device == "cuda" else max(left, LEAST_S)
    return Process(point, number, stage.device, limit_s, asked, files, stage.measure.busy_gpu)


def keep(stage: Stage, ended: Process, found: Answer, place: Place) -> str:
    """Write what a process answered, and the point's rows; what there is to say of it."""
    point, first = ended.point, ended.number == 1
    for name, content in found.get("files", {}).items():
        write_whole(ended.files[name], content)
    stage.folder.write_process(point.id, ended.number, stage.asked(ended.number), {name: one for name, one in found.items() if name in RAW})
    failure = found.get("failure", {})
    if first:
        stage.ooms[point.variant, place.name] += failure.get("status") == "oom"
        details = {name: value for name, value in found.items() if name not in (*RAW, "files")}
        stage.folder.write_details(point.id, details | failure | ({"where": found["where"]} if "where" in found else {}))
    given = answers(stage, point)
    stage.folder.write_point(point.id, "measured", rows.of_processes(point, stage.key_of(given[1]), given))
    return failure.get("note", "")


def refused(stage: Stage, point: Point, left: float, place: Place) -> tuple[str, str] | None:
    """Status and reason of a point that is not run; None of one that is."""
    if point.unsupported:
        return "unsupported", point.unsupported
    if stage.ooms[point.variant, place.name] >= OOMS:
        return "skipped", f"two smaller batches of {point.label} ran out of memory"
    if left <= 0:
        return "skipped", f"the budget of {stage.measure.on_cpu.budget_s:g} s for measuring on the CPU was used up"
    return None


def answers(stage: Stage, point: Point) -> dict[int, Answer]:
    """What the point's processes answered, by round; those alone that are from the first one's device."""
    found = {number: answer(stage, point, number) for number in range(1, stage.settings.repeats + 1)}
    return alike({number: one for number, one in found.items() if one is not None})


def setting(point: Point) -> tuple:
    """What points share that are compared with each other."""
    return point.model, point.seq, point.precision, point.checkpointing, point.batch, point.parallel
