"""The measuring part of a run: every point in processes of its own that take turns, failures as rows, nothing twice.

A B C, A B C, …: every round goes over all points, so that a machine that drifts drifts for all. rounds.py says what a process is asked
and what becomes of its answer, turns.py which one is next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refta_profiler.measure import rounds, rows, turns
from refta_profiler.measure.executors import Executor
from refta_profiler.measure.executors.local import HERE, Local
from refta_profiler.measure.rounds import Stage
from refta_profiler.plan import Point
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Scenario
from refta_profiler.statistics import medians, noise_by_setting


def measure_all(
    scenario: Scenario,
    points: Sequence[Point],
    folder: RunFolder,
    device: str,
    key: str,
    progress: Any,
    executor: Executor,
    *,
    retry_errors: bool = False,
) -> dict[str, str]:
    """Every point's rows in the folder, in as many processes as the scenario's `repeats` says, run by the executor.

    What rows call the devices that answered, by what these call themselves. retry_errors: processes that failed are run again.
    """
    stage = Stage(scenario.measure, folder, device, key, progress, retry_errors)
    meet(stage, points)
    waiting = turns.waiting(stage, points, executor)
    progress.start("measure", len(waiting))
    turns.take(stage, waiting, executor)
    if isinstance(executor, Local):
        executor.close()  # the model that processes were forked with takes no room while the run goes on
    settle(stage, points)
    return stage.keys


def anything(
    scenario: Scenario,
    points: Sequence[Point],
    folder: RunFolder,
    device: str,
    key: str,
    executor: Executor,
    *,
    retry_errors: bool = False,
) -> bool:
    """Whether any process of these points is still to be run."""
    stage = Stage(scenario.measure, folder, device, key, None, retry_errors)
    meet(stage, points)
    return bool(turns.waiting(stage, points, executor))


def meet(stage: Stage, points: Sequence[Point]) -> None:
    """The stage knows of stored answers the devices that they are from and what ran out of memory: a resumed run goes on as it began."""
    stage.keys.update(stage.folder.environment().get("devices", {}))
    for point in points:
        if (found := rounds.answer(stage, point, 1)) is not None:
            stage.key_of(found)
            rounds.count_oom(stage, point, found.get("failure", {}), found.get("where", {}).get("place", HERE.name))


def settle(stage: Stage, points: Sequence[Point]) -> None:
    """Every measured point's rows once more, now with the noise of its setting; one point's answers are held at a time."""
    timed: dict[str, dict[int, float]] = {}
    alike: dict[str, tuple] = {}
    for point in points:
        given = rounds.answers(stage, point)
        if 1 in given:
            timed[point.id], alike[point.id] = medians(given), (*rounds.setting(point), stage.key_of(given[1]))
    floors = noise_by_setting([timed], alike)
    for point in (point for point in points if point.id in timed):
        given = rounds.answers(stage, point)
        key = stage.key_of(given[1])
        made = rows.of_processes(point, key, given)
        if count := len(timed[point.id]):
            made.append(rows.noise_row(point, key, floors[alike[point.id]], count, rounds.once(stage)))
        if made != stage.folder.read(point.id, "measured"):
            stage.folder.write_point(point.id, "measured", made)
