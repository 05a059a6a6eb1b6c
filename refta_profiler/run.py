"""The main path: a scenario's points predicted and measured into a run folder, and the report made from its rows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from refta_profiler import devices, own_code, plan, report
from refta_profiler.devices import device_key
from refta_profiler.errors import HardwareError, ScenarioError
from refta_profiler.plan import Point
from refta_profiler.processes import interruptions_held, one_thread
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Scenario

STEPS = "steps"  # the place of the job that hands a variant's step to the report's page


class Progress(Protocol):
    """Who is told how far a run is."""

    def start(self, what: str, total: int) -> None:
        """A stage of that many points begins."""

    def done(self, point: str, note: str = "") -> None:
        """A point is finished."""

    def say(self, text: str) -> None:
        """A line that is no point's."""


@dataclass(frozen=True)
class Options:
    """What the command line says beside the scenario."""

    only: str | None = None  # predict or measure
    device: str = "auto"
    formats: Sequence[str] = ("html",)


def run(scenario: Scenario, folder: RunFolder, options: Options, progress: Progress) -> list[Row]:
    """Predict, measure, report; what is finished in the folder is not done again. The rows of the run."""
    from refta_profiler.measure import stage
    from refta_profiler.task import residuals
    from refta_profiler.task import stage as task

    points = plan.points(scenario)
    device = measuring_device(options.device)
    with folder.lock():
        take_up(folder, [point.id for point in points], scenario.text)
        found = environment(scenario, device)
        folder.write_environment(found)
        measured = [] if options.only == "predict" else to_measure(scenario, points, device)
        if options.only != "measure":
            predict_all(points, measured, folder, device, progress)
            folder.write_closed_form(closed_form(points))
        stage.measure_all(scenario, measured, folder, device, device_key(device), progress)
        if options.only != "predict":
            task.train_all(scenario, points, folder, device, progress)
            residuals.look(scenario, folder, progress)
        folder.write_environment({**found, **ended(found)})
        folder.write_table()
        report.write(folder, tuple(options.formats))
    return folder.rows()


def take_up(folder: RunFolder, point_ids: list[str], scenario_text: str) -> None:
    """Write down the run's points. Of a scenario that was changed, what is the same stands and what is new is run.

    A ScenarioError where the folder has none of these points: it is another scenario's. (The same scenario may have none of them where code
    of the user's own was changed.)
    """
    planned = folder.planned()
    if planned and not set(planned) & set(point_ids) and folder.scenario_text() != scenario_text:
        raise ScenarioError(
            f"{folder.path}: was started with other points and has none of these; go on with its own scenario, "
            f"{folder.path / 'scenario.yaml'}, or start a new run without --resume"
        )
    folder.rescenario(scenario_text)
    folder.order(point_ids)


def measuring_device(wanted: str) -> str:
    """'cuda' or 'cpu'; HardwareError where a GPU is asked for and there is none."""
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise HardwareError("--device cuda: no CUDA device is here; leave it out to measure on the CPU, or use --only predict")
    return "cpu"


def environment(scenario: Scenario, device: str) -> dict[str, Any]:
    """What the run runs on and with, and the card that it predicts for."""
    from refta_profiler.measure import environment as found

    target = devices.get(scenario.target)
    card = {"key": scenario.target, "name": target.title, "memory_bytes": target.memory_bytes, "context_bytes": target.context_bytes}
    return {**found.describe(device), "target_device": card}


def ended(environment: dict[str, Any]) -> dict[str, Any]:
    """When the run was done, how long it took in all, and how busy the machine then was."""
    now = datetime.now(UTC)
    wall = (now - datetime.fromisoformat(environment["started"])).total_seconds()
    return {"ended": now.isoformat(timespec="seconds"), "wall_seconds": wall, "load_average_at_the_end": list(os.getloadavg())}


def to_measure(scenario: Scenario, points: Sequence[Point], device: str) -> list[Point]:
    """The points that are measured here, variants side by side: all on a GPU, those of `on_cpu.batch` on a CPU."""
    if scenario.measure.when == "never":
        return []
    chosen = [point for point in points if device == "cuda" or point.measure_on_cpu]
    return sorted(chosen, key=lambda point: (point.batch, point.seq or 0, point.precision, point.checkpointing))


def predict_all(points: Sequence[Point], measured: Sequence[Point], folder: RunFolder, device: str, progress: Progress) -> None:
    """Every point's predictions for its target; for points measured on another device, for that device as well."""
    jobs = [(point, point.target, "dryrun") for point in points]
    key = device_key(device)
    if key in devices.names():
        jobs += [(point, key, f"dryrun-{key}") for point in measured if point.target != key]
    jobs = [job for job in jobs if not folder.finished(job[0].id, job[2])]
    progress.start("predict", len(jobs))
    jobs += [(point, point.target, STEPS) for point in plan.variants(points) if not folder.has_steps(point.id)]
    for (point, _, place), (closed, dry) in in_processes(jobs):
        if place == STEPS:
            folder.write_steps(point.id, closed)
            continue
        if place == "dryrun":
            folder.write_point(point.id, "contraction", closed)
        folder.write_point(point.id, place, dry)
        progress.done(point.id, next((row.note for row in dry if row.status != "ok"), ""))


def in_processes(jobs: Sequence[tuple[Point, str, str]]) -> Iterator[tuple[tuple[Point, str, str], tuple[list[Any], list[Row]]]]:
    """The predictions of all jobs, as they are ready, over the cores of this machine; points of one method stay together."""
    import multiprocessing

    jobs = sorted(jobs, key=lambda job: job[0].method == own_code.NAME)  # what that changes beyond its model, no other method sees
    groups = by_variant(jobs)
    workers = min(os.cpu_count() or 1, len(groups))
    if workers <= 1 or len(jobs) <= 4:  # a second process takes seconds to start
        yield from ((job, predict_job(job)) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread) as pool:
        try:
            with interruptions_held():
                waiting = {pool.submit(predict_jobs, group): group for group in groups}
            for future in as_completed(waiting):
                yield from zip(waiting[future], future.result(), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def by_variant(jobs: Sequence[tuple[Point, str, str]]) -> list[list[tuple[Point, str, str]]]:
    """The jobs in groups that differ in their batch alone, which one process predicts together since they share most of the work."""
    groups: dict[tuple, list[tuple[Point, str, str]]] = {}
    for point, target, place in jobs:
        key = (point.label, point.seq, point.precision, point.checkpointing, target)
        groups.setdefault(key, []).append((point, target, place))
    return list(groups.values())


def predict_jobs(jobs: Sequence[tuple[Point, str, str]]) -> list[tuple[list[Any], list[Row]]]:
    """The predictions of several points, in order."""
    return [predict_job(job) for job in jobs]


def predict_job(job: tuple[Point, str, str]) -> tuple[list[Any], list[Row]]:
    """The closed form's rows and the dry run's of one point on one target; or its variant's step as data, alone."""
    from refta_profiler.predict import rows, steps

    with contextlib.redirect_stdout(sys.stderr):  # what code of the user's own prints is not the answer
        if job[2] == STEPS:
            return [steps.of(job[0])], []
        closed, dry, _ = rows.predict(job[0], job[1])
    return closed, dry


def closed_form(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The closed form of every method and order of the scenario, and the crossovers of each pair of one method's orders."""
    from refta_profiler.predict import crossings

    return crossings.closed_form(points)
