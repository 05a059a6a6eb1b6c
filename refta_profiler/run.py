"""The main path: a scenario's points predicted and measured into a run folder, and the report made from its rows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from refta_profiler import devices, models, own_code, plan, processes, published_copy, report, same_measurements, sessions, weight_identity
from refta_profiler.devices import device_key
from refta_profiler.errors import HardwareError, ScenarioError
from refta_profiler.plan import Point
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Scenario

if TYPE_CHECKING:
    from refta_profiler.measure.executors import Executor

Job = tuple[Point, str, str]  # a prediction: of what, for which device, and the place that its rows have in the folder
STEPS = "steps"  # the place of the job that hands a variant's step to the report's page

FEW = 4  # jobs that are done where they are: a second process takes seconds to start
KEPT = {"devices"}  # of an earlier environment.json of the folder: what rows call the devices of a cluster
# kept too where nothing is measured now: what the measurements that are there were made by, on and with, and when
MEASURED_ON = {"device", "python", "system", "versions", "libraries", "cpu", "gpu", "torch_settings", "variables", "command", "weights"}
MEASURED_ON |= {*sessions.CODE, "own_code"}
MEASURED_ON |= {"executor", "address", "nodes", "slurm", "started", "ended", "wall_seconds", "load_average_at_the_end"}
TRAINED = ("test_accuracy", "test_correlation")  # the metrics of a training's score


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
    retry_errors: bool = False  # whether predictions and processes that failed are made again
    executor: Executor | None = None  # what runs the measuring processes, closed by who made it; this machine where none is given


@dataclass(frozen=True)
class Finished:
    """What a run comes to: its rows, and the main file of every format that its report was written in."""

    rows: list[Row]
    reports: list[Path]


def run(scenario: Scenario, folder: RunFolder, options: Options, progress: Progress) -> Finished:
    """Predict, measure, report; what is finished in the folder is not done again."""
    from refta_profiler.measure import stage
    from refta_profiler.measure.executors.local import Local
    from refta_profiler.task import residuals, store
    from refta_profiler.task import stage as task

    if options.executor is None:
        with contextlib.closing(Local()) as here:
            return run(scenario, folder, replace(options, executor=here), progress)
    points = plan.points(scenario)
    executor = options.executor
    device = executor.kind(options.device)
    # trainings run on this machine, whoever measures
    training = device if executor.name == "local" or scenario.data is None else Local().kind("auto")
    with folder.lock():
        executor.open(folder.path, device)
        published_copy.unpack(folder)
        changed = folder.scenario_text() != scenario.text
        take_up(folder, points, scenario.text)
        if words := elsewhere(folder, device, training) if options.device == "auto" and options.only != "predict" else "":
            progress.say(words)
        measures = options.only != "predict" and not words
        measured = to_measure(scenario, points, device) if measures else []
        refuse_ranks(measured, options.device, executor)
        key = keys(device, executor)[0]
        trains = measures and scenario.data is not None and (changed or task.anything(scenario, points, folder))
        again = options.retry_errors
        new = not folder.environment() or trains or stage.anything(scenario, measured, folder, device, key, executor, retry_errors=again)
        found = begin(folder, environment(scenario, device, executor) | own_sources(points), new)
        trainings = store.count(folder)
        if options.only != "measure":
            predict_all(points, measured, folder, keys(device, executor), progress, executor, retry_errors=again)
            folder.write_closed_form(closed_form(points))
        met = stage.measure_all(scenario, measured, folder, device, key, progress, executor, retry_errors=again)
        if measures:
            task.train_all(scenario, points, folder, training, progress)
            residuals.look(scenario, points[0], folder, progress)
        devices_met = {"devices": met} if executor.name != "local" or len(met) > 1 else {}
        found[sessions.KEY] = sessions.ended(found[sessions.KEY], did(folder, trainings))
        folder.write_environment({**found, **(ended(found[sessions.KEY][-1]) if new else {}), **devices_met})
        folder.write_table()
        reports = [paths[0] for paths in report.by_format(folder, tuple(options.formats)).values() if paths]
    return Finished(folder.rows(), reports)


def elsewhere(folder: RunFolder, device: str, training: str) -> str:
    """Why nothing is measured where no device was asked for: what the folder holds is from the other kind of device; '' where it is not.

    device: the kind that would measure; training: the kind that would train.
    """
    wanted = {"peak_allocated_bytes": device, **dict.fromkeys(TRAINED, training)}
    there = [row for row in folder.rows() if row.source == "measured" and row.metric in wanted and row.status in ("ok", "oom", "error")]
    for row in there:
        if (kind := wanted[row.metric]) != ("cpu" if row.target.partition(":")[0] == "cpu" else "cuda"):
            here = {"cpu": "a CPU", "cuda": "a GPU"}[kind]
            return (
                f"nothing is measured: what {folder.path} holds was measured on {row.target}, and here is {here}; "
                f"to measure on {here}, in the place of that, say --device {kind}"
            )
    return ""


def keys(device: str, executor: Executor) -> list[str]:
    """What rows call the devices that the executor measures on, as far as that is known before: the target of another prediction each."""
    executor_keys = [place.key for place in executor.places if place.key]
    return list(dict.fromkeys(executor_keys)) or [device_key(device)]


def take_up(folder: RunFolder, points: Sequence[Point], scenario_text: str) -> None:
    """Write down the run's points. Of a scenario that was changed, what is the same stands and what is new is run.

    What was measured for points that differ in their target alone stands for these as well: predictions are for a target, measurements are
    not. A ScenarioError where the folder has none of these points, whatever their target: it is another scenario's. (The same scenario may
    have none of them where code of the user's own was changed.)
    """
    planned = set(folder.planned())
    changed = folder.scenario_text() != scenario_text
    earlier = aimed_elsewhere(points, planned - {point.id for point in points}) if changed else {}
    if planned and changed and not earlier and not any(point.id in planned for point in points):
        raise ScenarioError(
            f"{folder.path}: was started with other points and has none of these; go on with its own scenario, "
            f"{folder.path / 'scenario.yaml'}, or start a new run without --resume"
        )
    for point in points:
        if point.id in earlier:
            same_measurements.take_over(folder, earlier[point.id], point.id)
    folder.rescenario(scenario_text)
    folder.order([point.id for point in points])


def aimed_elsewhere(points: Sequence[Point], planned: set[str]) -> dict[str, str]:
    """By a point's id the planned one's that differs from it in its target alone, where there is one.

    Runs of before scenarios had a device's own name for any of its aliases count: their target is another in the same way.
    """
    found: dict[str, str] = {}
    architecture = models.fingerprint(points[0].model)  # which all points share
    for point in points if planned else []:
        others = (plan.aimed_at(point, target, architecture).id for target in devices.spellings() if target != point.target)
        if other := next((one for one in others if one in planned), ""):
            found[point.id] = other
    return found


def measuring_device(wanted: str) -> str:
    """'cuda' or 'cpu' of this machine; HardwareError where a GPU is asked for and there is none."""
    from refta_profiler.measure.executors.local import Local

    return Local().kind(wanted)


def refuse_ranks(measured: Sequence[Point], wanted: str, executor: Executor) -> None:
    """Nothing; HardwareError where GPUs of this machine are asked for and a point needs more. Otherwise such points are skipped."""
    from refta_profiler.measure import cluster

    if wanted != "cuda" or executor.name != "local":
        return
    if found := next((words for point in measured if (words := cluster.refusal(point, wanted))), ""):
        raise HardwareError(f"--device cuda: {found}; leave --device out to skip such points, or write fewer ranks in `parallel`")


def environment(scenario: Scenario, device: str, executor: Executor) -> dict[str, Any]:
    """What the run runs on and with, the card that it predicts for, and the cluster that it measures on where there is one."""
    from refta_profiler.measure import environment as found

    target = devices.get(scenario.target)
    card = {"key": scenario.target, "name": target.title, "memory_bytes": target.memory_bytes, "context_bytes": target.context_bytes}
    elsewhere = executor.describe()
    machine = found.describe("cpu" if elsewhere else device) | elsewhere
    weights = {"weights": weight_identity.of(scenario.model)} if scenario.weights == "pretrained" else {}
    return {**machine, **weights, "target_device": card}


def own_sources(points: Sequence[Point]) -> dict[str, Any]:
    """{"own_code": {call: the hash of its sources}} of a run with code of the user's own, which no commit of ours tells."""
    found = {point.settings["call"]: point.settings["sources"] for point in points if point.method == own_code.NAME}
    return {"own_code": found} if found else {}


def begin(folder: RunFolder, found: dict[str, Any], new: bool) -> dict[str, Any]:
    """Write environment.json of a session that begins: {**found, sessions}, or what stands of the earlier one; what was written.

    found: what the session runs on and with. new: whether it measures anything.
    """
    earlier = folder.environment()
    told = sessions.begun(earlier, found)
    folder.session = len(told)
    folder.written.clear()
    stands = KEPT if new else KEPT | MEASURED_ON
    written = {name: one for name, one in found.items() if new or name not in MEASURED_ON}
    written |= {name: one for name, one in earlier.items() if name in stands}
    folder.write_environment(written := {**written, sessions.KEY: told})
    return written


def did(folder: RunFolder, trainings: int) -> dict[str, int]:
    """How much the session did; trainings: how many were there before."""
    from refta_profiler.task import store

    written = {"predictions": folder.written["dryrun"], "processes": folder.written["processes"]}
    summed_up = 0 if folder.written["processes"] else folder.written["measured"]  # rows from answers that were there
    again = {"points summed up again": summed_up} if summed_up else {}
    return {**written, **again, "trainings": store.count(folder) - trainings}


def ended(session: sessions.Session) -> dict[str, Any]:
    """When the run was done, how long its last session took, and how busy the machine then was."""
    return {**{name: session[name] for name in sessions.ENDED}, "load_average_at_the_end": list(os.getloadavg())}


def to_measure(scenario: Scenario, points: Sequence[Point], device: str) -> list[Point]:
    """The points that are measured here, variants side by side: all on a GPU, those of `on_cpu.batch` on a CPU."""
    if scenario.measure.when == "never":
        return []
    chosen = [point for point in points if device == "cuda" or point.measure_on_cpu]
    return sorted(chosen, key=lambda point: (point.batch, point.seq or 0, point.precision, point.checkpointing, point.parallel))


def predict_all(
    points: Sequence[Point],
    measured: Sequence[Point],
    folder: RunFolder,
    keys: Sequence[str],
    progress: Progress,
    executor: Executor,
    *,
    retry_errors: bool = False,
) -> None:
    """Every point's predictions for its target; for points measured on other devices, for these as well.

    retry_errors: those that failed are made again.
    """
    jobs = [(point, point.target, "dryrun") for point in points]
    for key in (key for key in keys if key in devices.names()):
        jobs += [(point, key, f"dryrun-{key}") for point in measured if point.target != key]
    jobs = [job for job in jobs if not folder.finished(job[0].id, job[2]) or (retry_errors and failed(folder, job[0].id, job[2]))]
    progress.start("predict", len(jobs))
    jobs += [(point, point.target, STEPS) for point in plan.variants(points) if not folder.has_steps(point.id)]
    for (point, _, place), (closed, dry) in spread(jobs, executor):
        if place == STEPS:
            folder.write_steps(point.id, closed)
            continue
        if place == "dryrun":
            folder.write_point(point.id, "contraction", closed)
        folder.write_point(point.id, place, dry)
        progress.done(point.id, next((row.note for row in dry if row.status != "ok"), ""))


def failed(folder: RunFolder, point_id: str, source: str) -> bool:
    """Whether the folder has an error in the place of a value of that point and source."""
    return any(row.status == "error" for row in folder.read(point_id, source))


def spread(jobs: Sequence[Job], executor: Executor) -> Iterator[tuple[Job, tuple[list[Any], list[Row]]]]:
    """The predictions of all jobs, as they are ready: over a cluster's nodes where the executor has some, otherwise over these cores."""
    found = executor.spread(predict_jobs, by_variant(jobs)) if len(jobs) > FEW else None
    if found is None:
        yield from in_processes(jobs)
        return
    for group, answers in found:
        yield from zip(group, answers, strict=True)


def in_processes(jobs: Sequence[Job]) -> Iterator[tuple[Job, tuple[list[Any], list[Row]]]]:
    """The predictions of all jobs, as they are ready, over the cores of this machine; points of one method stay together."""
    jobs = sorted(jobs, key=lambda job: job[0].method == own_code.NAME)  # what that changes beyond its model, no other method sees
    groups = by_variant(jobs)
    workers = min(os.cpu_count() or 1, len(groups))
    if workers <= 1 or len(jobs) <= FEW:  # a second process takes seconds to start
        yield from ((job, predict_job(job)) for job in jobs)
        return
    for group, future in processes.ended(predict_jobs, [(group, (group,)) for group in groups], workers, processes.one_thread):
        try:
            answers = future.result()
        except BrokenProcessPool as error:
            raise HardwareError(
                "a process that predicts was killed, as happens when memory runs out (one a core works at a time)"
            ) from error
        yield from zip(group, answers, strict=True)


def by_variant(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in groups that differ in their batch alone, which one process predicts together since they share most of the work."""
    groups: dict[tuple, list[Job]] = {}
    for point, target, place in jobs:
        groups.setdefault((point.variant, target), []).append((point, target, place))
    return list(groups.values())


def predict_jobs(jobs: Sequence[Job]) -> list[tuple[list[Any], list[Row]]]:
    """The predictions of several points, in order."""
    return [predict_job(job) for job in jobs]


def predict_job(job: Job) -> tuple[list[Any], list[Row]]:
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
