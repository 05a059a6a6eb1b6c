"""The training part of a run: every method at every learning rate on the first seeds, then at the chosen one on all. Nothing twice.

Each training run is a file, written whole by the process that made it, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from refta_profiler import processes, weight_identity
from refta_profiler.devices import device_key
from refta_profiler.plan import Point
from refta_profiler.run_folder import RunFolder
from refta_profiler.same_measurements import TRAINED
from refta_profiler.scenario import Scenario
from refta_profiler.task import data, rows, store
from refta_profiler.task.checks import rates
from refta_profiler.task.data import Splits
from refta_profiler.task.summary import Summary
from refta_profiler.task.train import Job, estimate, run, steps_of
from refta_profiler.units import format_seconds

WEIGHTS = "weights"  # in training.json


@dataclass(frozen=True)
class Grid:
    """Everything that a scenario trains."""

    scenario: Scenario
    points: Sequence[Point]
    splits: Splits
    device: str
    weights: str = ""  # which pretrained ones, as weight_identity has it; '' for random ones, and in folders from before it was told

    def job(self, point: Point, rate: float, seed: int) -> Job:
        """One training run."""
        assert self.scenario.data is not None and self.scenario.train is not None
        return Job(point, self.scenario.data, self.scenario.train, rate, seed, self.scenario.seed, self.device)

    def file(self, job: Job) -> str:
        """The run's file, by all that its result depends on."""
        same = job.train.model_dump(exclude={"lr", "seeds", "lr_seeds", "to_loss"})
        told = [self.weights] if self.weights else []
        return store.file_name(job.point.id, job.rate, job.seed, [self.splits.digest, same, self.device, *told])

    def jobs(self, point: Point) -> list[Job]:
        """Every run of a method that may be made: all rates on all seeds."""
        assert self.scenario.train is not None
        tried = rates(self.scenario.train, point.label, point.method)
        return [self.job(point, rate, seed) for seed in self.scenario.train.seeds for rate in tried]


def train_all(scenario: Scenario, points: Sequence[Point], folder: RunFolder, device: str, progress: Any) -> None:
    """Every method trained, tested and in the folder's rows; nothing where the scenario has no data."""
    if scenario.data is None or scenario.train is None:
        return
    splits = data.read(scenario.data, scenario.task.num_labels or 2, seed=scenario.seed)
    grid = Grid(scenario, trained(scenario, points), splits, device, weights(scenario, folder))
    store.write_shared(folder, shared(grid))
    search = [job for point in grid.points for job in grid.jobs(point) if job.seed in scenario.train.seeds[: scenario.train.lr_seeds]]
    later = len(grid.points) * (len(scenario.train.seeds) - scenario.train.lr_seeds)
    waiting = [job for job in search if store.read(folder, grid.file(job)) is None]
    say_cost(grid, waiting, len(waiting) + later if waiting else 0, progress)
    work_off(grid, waiting, folder, progress, "choose")
    chosen = {one.label: one.rate for one in summary(folder).methods}
    final = [job for point in grid.points for job in grid.jobs(point) if job.rate == chosen[point.label]]
    final.sort(key=lambda job: scenario.train.seeds.index(job.seed) if scenario.train else 0)  # all methods' first seeds first
    work_off(grid, [job for job in final if store.read(folder, grid.file(job)) is None], folder, progress, "train")
    write_rows(grid, folder)


def anything(scenario: Scenario, points: Sequence[Point], folder: RunFolder) -> bool:
    """Whether a method of the scenario, as it was when the folder's rows were written, is still to be trained."""
    if weights(scenario, folder) != store.read_shared(folder).get(WEIGHTS, ""):
        return True
    there = [folder.read(point.id, TRAINED) for point in trained(scenario, points)]
    return any(not rows or rows[0].status == "skipped" for rows in there)


def weights(scenario: Scenario, folder: RunFolder) -> str:
    """Which pretrained weights are trained, where the folder's runs tell theirs or there are none yet: other weights make other runs."""
    told = store.read_shared(folder)
    return weight_identity.of(scenario.model) if scenario.weights == "pretrained" and (not told or WEIGHTS in told) else ""


def trained(scenario: Scenario, points: Sequence[Point]) -> list[Point]:
    """The points that are trained: each method's first, at the scenario's first batch, length, precision and checkpointing."""
    first: dict[str, Point] = {}
    for point in points:
        if not point.unsupported:
            first.setdefault(point.label, point)
    return list(first.values())


def shared(grid: Grid) -> dict[str, Any]:
    """What all runs share, and which files are whose."""
    train, splits = grid.scenario.train, grid.splits
    assert train is not None and grid.scenario.data is not None
    methods = [
        {
            "label": point.label,
            "method": point.method,
            "point": point.id,
            "rates": rates(train, point.label, point.method),
            "files": [grid.file(job) for job in grid.jobs(point)],
        }
        for point in grid.points
    ]
    sizes = {name: len(getattr(splits, name)) for name in data.SPLITS}
    batch = grid.points[0].batch if grid.points else 0
    return {
        "version": store.VERSION,
        "metric": "accuracy" if splits.classes else "correlation",
        "images": splits.images,
        "classes": list(splits.classes),
        "truth": None if splits.classes else list(splits.test.targets),
        "items": sizes,
        "majority": majority(splits),
        "digest": splits.digest,
        "batch": batch,
        "steps": steps_of(train, sizes["train"], batch) if batch else 0,
        "seeds": list(train.seeds),
        "lr_seeds": train.lr_seeds,
        "to_loss": train.to_loss,
        "train": train.model_dump(),
        "device": grid.device,
        **({WEIGHTS: grid.weights} if grid.weights else {}),
        "methods": methods,
    }


def majority(splits: Splits) -> float | None:
    """The share of the test items that are of the class most common in train: what knowing nothing gives."""
    if not splits.classes:
        return None
    most = max(set(splits.train.targets), key=splits.train.targets.count)
    return splits.test.targets.count(most) / len(splits.test)


def summary(folder: RunFolder) -> Summary:
    """What the folder's runs come to so far."""
    found = Summary.of(folder)
    assert found is not None  # training.json was written before
    return found


def workers(grid: Grid, jobs: Sequence[Job]) -> int:
    """Processes side by side: one on a GPU, one a core on the CPU."""
    return 1 if grid.device == "cuda" else max(1, min(os.cpu_count() or 1, len(jobs)))


def say_cost(grid: Grid, waiting: Sequence[Job], runs: int, progress: Any) -> None:
    """Tell what the grid will cost before it starts, by a few steps and test items of the method in the middle of the list."""
    if not waiting:
        return
    job = waiting[len(waiting) // 2]
    ((_, future),) = processes.ended(estimate, [(job, (job,))], 1, begin)
    seconds = future.result()
    side = workers(grid, waiting)
    words = f"{runs} training runs, {side} at a time" if side > 1 else f"{runs} training runs"
    if seconds is None:
        progress.say(f"{words}; what one takes is not known, a few steps of {job.point.label} failed")
        return
    whole = f"about {format_seconds(seconds)} each and {format_seconds(seconds * runs / side)} in all"
    progress.say(f"{words}, {whole} (from 3 steps of {job.point.label}); stopped at any moment, --resume goes on")


def begin(parent: int) -> None:
    """A training process: one thread, and what transformers says of loading weights is not said again and again."""
    processes.one_thread(parent)
    processes.loading_quietly()


def work_off(grid: Grid, jobs: Sequence[Job], folder: RunFolder, progress: Any, what: str) -> None:
    """Run all jobs and store each; one whose process dies is stored as failed."""
    progress.start(what, len(jobs))
    for job, note in made(grid, jobs, folder):
        progress.done(f"{job.point.label}, learning rate {job.rate:g}, seed {job.seed}", note)


def made(grid: Grid, jobs: Sequence[Job], folder: RunFolder) -> Iterator[tuple[Job, str]]:
    """Every job when it is done, with what there is to say of it."""
    if not jobs:
        return
    wanted = [(job, (job, folder, grid.file(job))) for job in jobs]
    for job, future in processes.ended(run_and_store, wanted, workers(grid, jobs), begin):
        yield job, outcome(future, job)


def outcome(future: Any, job: Job) -> str:
    """The note of a finished job; of one whose process was killed, that it is to be done again."""
    try:
        return future.result()
    except BrokenProcessPool:
        return f"seed {job.seed}: the training process was killed, as happens when memory runs out; --resume tries it again"


def run_and_store(job: Job, folder: RunFolder, name: str) -> str:
    """In a process of the pool: the job's file written; its failure, or ''."""
    found = run(job)
    store.write(folder, name, found)
    return found.failure


def write_rows(grid: Grid, folder: RunFolder) -> None:
    """The rows of every trained method."""
    found, key = summary(folder), device_key(grid.device)
    for point in grid.points:
        folder.write_point(point.id, TRAINED, rows.of_method(point, key, found, found.named(point.label)))
