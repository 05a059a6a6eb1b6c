"""The measuring part of a run: every point in fresh processes that take turns, failures as rows, nothing twice.

Round 1 measures everything of each point, later rounds its time alone: A B C, A B C, …, so that a machine that drifts drifts for all.
What each process answered is kept (processes/), and a point's rows are made from all of its answers.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from refta_profiler.errors import HardwareError
from refta_profiler.measure import cluster, gpu, isolate, rows
from refta_profiler.plan import Point
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Measure, Scenario
from refta_profiler.statistics import medians, noise_by_setting

GPU_LIMIT_S = 900.0  # for one process
LEAST_S = 60.0  # that a process gets on a CPU however little of the budget is left
OOMS = 2  # of one method, after which its larger batches are not tried
TIMED = ("samples", "loads", "bare", "gpu", "gpu_others", "setup_seconds", "setup_watched")
RAW = ("values", "afterwards", "ranks", "failure", *TIMED)  # what rows are made of
FILES = {"kernels": ("trace", ".json.gz"), "history": ("history", ".memory.pickle")}  # by instrument: what it is called, how it ends


@dataclass
class Stage:
    """One measuring of points on one device: 'cuda' or 'cpu', called `key` in the rows."""

    measure: Measure
    folder: RunFolder
    device: str
    key: str
    progress: Any
    started: float = field(default_factory=lambda: time.monotonic())
    ooms: Counter[tuple] = field(default_factory=Counter)

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


def measure_all(scenario: Scenario, points: Sequence[Point], folder: RunFolder, device: str, key: str, progress: Any) -> None:
    """Every point's rows in the folder, in as many processes as the scenario's `repeats` says."""
    stage = Stage(scenario.measure, folder, device, key, progress)
    waiting = list(jobs(stage, points))
    progress.start("measure", len(waiting))
    for point, number in waiting:
        note = one(stage, point, number)
        progress.done(point.id, note)
    settle(stage, points)


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


def one(stage: Stage, point: Point, number: int) -> str:
    """Run one process of a point and write its rows; what there is to say of it."""
    left = stage.left_s
    if number == 1 and (found := refused(stage, point, left)):
        stage.folder.write_point(point.id, "measured", rows.failed(point, stage.key, *found))
        return found[1]
    first = answer(stage, point, 1) if number > 1 else None
    if number > 1 and (left <= 0 or first is None or "failure" in first):
        return ""
    found_answer = run_process(stage, point, number, limit_s=GPU_LIMIT_S if stage.device == "cuda" else max(left, LEAST_S))
    raw = {name: value for name, value in found_answer.items() if name in RAW}
    stage.folder.write_process(point.id, number, stage.asked(number), raw)
    failure = found_answer.get("failure", {})
    stage.ooms[sweep(point)] += number == 1 and failure.get("status") == "oom"
    if number == 1:
        stage.folder.write_details(point.id, {name: value for name, value in found_answer.items() if name not in RAW} | failure)
    stage.folder.write_point(point.id, "measured", rows.of_processes(point, stage.key, answers(stage, point)))
    return failure.get("note", "")


def refused(stage: Stage, point: Point, left: float) -> tuple[str, str] | None:
    """Status and reason of a point that is not run; None of one that is."""
    if point.unsupported:
        return "unsupported", point.unsupported
    if found := cluster.refusal(point, stage.device):
        return "skipped", found
    if stage.ooms[sweep(point)] >= OOMS:
        return "skipped", f"two smaller batches of {point.label} ran out of memory"
    if left <= 0:
        return "skipped", f"the budget of {stage.measure.on_cpu.budget_s:g} s for measuring on the CPU was used up"
    return None


def sweep(point: Point) -> tuple:
    """What points share that differ in their batch alone."""
    return point.label, point.seq, point.precision, point.checkpointing, point.parallel


def run_process(stage: Stage, point: Point, number: int, *, limit_s: float) -> dict[str, Any]:
    """The answer of a fresh process; a HardwareError where others use the GPU and the scenario refuses that."""
    words = ""
    if stage.device == "cuda":
        what, words = gpu.settle(stage.measure.busy_gpu)
        if what == "refuse":
            raise HardwareError(words)
    asked = stage.asked(number)
    files = {
        name: stage.folder.trace_path(point.id, end) for instrument, (name, end) in FILES.items() if instrument in asked["instruments"]
    }
    if point.parallel:
        found = cluster.measure(point, stage.device, limit_s=limit_s, asked=asked)
    else:
        found = isolate.measure(point, stage.device, limit_s=limit_s, files=files, **asked)
    return {**found, "gpu_others": words} if words else found


def answers(stage: Stage, point: Point) -> dict[int, dict[str, Any]]:
    """What the point's processes answered, by round."""
    found = {number: answer(stage, point, number) for number in range(1, stage.settings.repeats + 1)}
    return {number: one for number, one in found.items() if one is not None}


def settle(stage: Stage, points: Sequence[Point]) -> None:
    """Every measured point's rows once more, now with the noise of its setting."""
    found = {point.id: (point, answers(stage, point)) for point in points}
    measured = {name: (point, given) for name, (point, given) in found.items() if 1 in given}
    timed = {name: medians(given) for name, (_, given) in measured.items()}
    floors = noise_by_setting([timed], {name: setting(point) for name, (point, _) in measured.items()})
    for name, (point, given) in measured.items():
        made = rows.of_processes(point, stage.key, given)
        if rounds := len(timed[name]):
            made.append(rows.noise_row(point, stage.key, floors[setting(point)], rounds))
        if made != stage.folder.read(name, "measured"):
            stage.folder.write_point(name, "measured", made)


def setting(point: Point) -> tuple:
    """What points share that are compared with each other."""
    return point.model, point.seq, point.precision, point.checkpointing, point.batch, point.parallel
