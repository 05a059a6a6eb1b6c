"""The measuring part of a run: every point in processes of its own that take turns, failures as rows, nothing twice.

A B C, C B A, B C A, …: every round goes over all points, so that a machine that drifts drifts for all, and no place in a round favours one.
rounds.py says what a process is asked and what becomes of its answer, turns.py which one is next.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from refta_profiler import weight_identity
from refta_profiler.measure import environment, isolate, rounds, rows, turns, versions
from refta_profiler.measure.executors import LOCAL, Executor
from refta_profiler.measure.executors.local import HERE, Local
from refta_profiler.measure.rounds import Stage
from refta_profiler.plan import Point
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Scenario
from refta_profiler.statistics import Timed, make, noise_of_points, timed

BUILD = "torch_build"  # its version with what says how it was built
Turns = set[tuple[int, int]]  # of a point: (session, round) of each process that timed it
PACKAGES = ("python", *versions.PACKAGES, BUILD)  # whose versions a time may depend on


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
    stage = stage_of(scenario, folder, device, key, progress, executor, retry_errors=retry_errors)
    meet(stage, points)
    waiting = turns.waiting(stage, points, executor)
    if waiting and (unused := isolate.unused_allocator(device)):
        progress.say(unused)
    for words in rounds.begun_elsewhere(stage, points) if waiting else []:
        progress.say(words)
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
    stage = stage_of(scenario, folder, device, key, None, executor, retry_errors=retry_errors)
    meet(stage, points)
    return bool(turns.waiting(stage, points, executor))


def stage_of(
    scenario: Scenario, folder: RunFolder, device: str, key: str, progress: Any, executor: Executor, *, retry_errors: bool
) -> Stage:
    """The stage of a scenario on what the executor has now."""
    weights = weight_identity.of(scenario.model) if scenario.weights == "pretrained" else ""
    places = frozenset(place.name for place in executor.places)
    here = partial(at_hand, executor, device)
    return Stage(scenario.measure, folder, device, key, progress, retry_errors, identify=here, places=places, weights=weights)


def at_hand(executor: Executor, device: str) -> dict[str, str]:
    """What a process would say now of its device and versions. A cluster's device is not known before; its nodes have our versions."""
    if executor.name == LOCAL:
        return make({"where": environment.where(device)})
    return make({"where": {"versions": versions.here()}})


def meet(stage: Stage, points: Sequence[Point]) -> None:
    """The stage knows of stored answers the devices that they are from and what ran out of memory: a resumed run goes on as it began.

    What ran out of memory on another card says nothing of this one, nor does what is run again.
    """
    stage.keys.update(stage.folder.environment().get("devices", {}))
    for point in points:
        if (found := rounds.answer(stage, point, 1)) is not None:
            stage.key_of(found)
            device = rounds.device_of(found)
            if device in (rounds.UNKNOWN, stage.at_hand.get("device", device)) and not rounds.passing(stage, found):
                rounds.count_oom(stage, point, found.get("failure", {}), found.get("where", {}).get("place", HERE.name))


def settle(stage: Stage, points: Sequence[Point]) -> None:
    """Every measured point's rows once more, now with its noise; one point's answers are held at a time."""
    times: dict[str, Timed] = {}
    alike: dict[str, tuple] = {}
    makes: dict[str, dict[str, str]] = {}
    shared: dict[str, Turns] = {}
    for point in points:
        given = rounds.answers(stage, point)
        if 1 in given:
            times[point.id], alike[point.id] = timed(given), (*rounds.setting(point), stage.key_of(given[1]))
            shared[point.id] = {(one.get("where", {}).get("session", 0), number) for number, one in given.items() if one.get("samples")}
            makes[point.id] = {name: one for name, one in make(given[1]).items() if name != "device"}  # which the rows' target tells
    unlike = [name for name in PACKAGES if len({found[name] for found in makes.values() if name in found}) > 1]
    unlike = [name for name in unlike if name != BUILD or "torch" not in unlike]
    found, apart = noise_of_points([times], alike), took_no_turns(shared, alike)
    for point in (point for point in points if point.id in times):
        given = rounds.answers(stage, point)
        key = stage.key_of(given[1])
        made = rows.of_processes(point, key, given)
        if words := ", ".join(f"{name.replace('_', ' ')} {makes[point.id][name]}" for name in unlike if name in makes[point.id]):
            made = rows.with_versions(made, words)
        if count := len(times[point.id].medians):
            noise = rows.no_turns_row(point, key) if point.id in apart and count > 1 else None
            made.append(noise or rows.noise_row(point, key, found[point.id], count, rounds.once(stage)))
        if made != stage.folder.read(point.id, "measured"):
            stage.folder.write_point(point.id, "measured", made)


def took_no_turns(turns: Mapping[str, Turns], settings: Mapping[str, Hashable]) -> set[str]:
    """The points that were timed after others of their setting and never beside them, as what is added to a run and resumed.

    What has changed of the machine meanwhile would be taken for a difference of theirs: no drift that they share tells it.
    """
    members: dict[Hashable, list[Turns]] = {}
    for point, mine in turns.items():
        members.setdefault(settings[point], []).append(mine)

    def apart(mine: Turns, others: Sequence[Turns]) -> bool:
        return any(theirs and not mine & theirs and min(theirs) < min(mine) for theirs in others)

    return {point for point, mine in turns.items() if mine and apart(mine, members[settings[point]])}
