"""Which measuring process is run next and where, and what becomes of its answer.

Processes start in the order that they wait in, round by round. One after the other that is the order they end in too; where many run at
once, a later round of a point waits for its first, a sweep that ran out of memory starts nothing more, and points that are compared with
each other go to devices that are alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from refta_profiler.errors import HardwareError
from refta_profiler.measure import rounds, rows
from refta_profiler.measure.executors import Executor, Place, Process
from refta_profiler.measure.rounds import Stage
from refta_profiler.plan import Point

Job = tuple[Point, int]  # a point and the round that is to be run


@dataclass
class Turns:
    """What waits: in the order of the scenario, what a place was chosen for already, and rounds whose point's first has not ended."""

    stage: Stage
    executor: Executor
    rest: deque[Job]
    places: dict[tuple, str]  # of points that are compared with each other: where they are measured
    first: set[str]  # points whose first process has neither ended nor been refused
    chosen: dict[str, deque[Job]] = field(default_factory=dict)
    held: dict[str, list[Job]] = field(default_factory=dict)
    running: int = 0

    def next(self, place: Place) -> Job | None:
        """The first of what waits that can be run there; None where there is nothing now."""
        mine = self.chosen.setdefault(place.name, deque())
        while mine or self.rest:
            job = mine.popleft() if mine else self.rest.popleft()
            point, number = job
            if (setting := rounds.setting(point)) not in self.places:
                self.places[setting] = self.taking(point, place).name
            where = self.places[setting]
            if where != place.name:
                self.chosen.setdefault(where, deque()).append(job)
            elif number > 1 and point.id in self.first:
                self.held.setdefault(point.id, []).append(job)
            else:
                return job
        return None

    def taking(self, point: Point, place: Place) -> Place:
        """The place; or another that can run the point, where that one cannot."""
        return next((one for one in (place, *self.executor.places) if not self.executor.refusal(point, one)), place)

    def settled(self, point: Point) -> None:
        """The point's first process has ended, or was refused: its other rounds wait no longer."""
        self.first.discard(point.id)
        if waited := self.held.pop(point.id, []):
            self.chosen[self.places[rounds.setting(point)]].extendleft(reversed(waited))


def waiting(stage: Stage, points: Sequence[Point], executor: Executor) -> list[Job]:
    """Every process that is to be run, round by round; none of a point that would be refused in the words that its rows have already."""
    told = {point.id for point in points if told_already(stage, point, executor)}
    return [job for job in rounds.jobs(stage, points) if job[0].id not in told]


def told_already(stage: Stage, point: Point, executor: Executor) -> bool:
    """Whether the point's rows say that it was skipped, and every place would refuse it again for that reason."""
    there = stage.folder.read(point.id, "measured")
    if not there or there[0].status != "skipped":
        return False
    return {(there[0].status, there[0].note)} == {refusal(stage, point, math.inf, place, executor) for place in executor.places}


def take(stage: Stage, waiting: Sequence[Job], executor: Executor) -> None:
    """Every process that waits is run or refused, its rows and answer written and the progress told; nothing is left running."""
    there = {place.name for place in executor.places}
    first = {point.id for point, number in waiting if number == 1}
    turns = Turns(stage, executor, deque(waiting), assigned(stage, waiting, there), first)
    while start(turns) or turns.running:
        for ended, place, answer in executor.ended():
            turns.running -= 1
            note = rounds.keep(stage, ended, answer, place)
            turns.settled(ended.point)
            stage.progress.done(ended.point.id, note)
            if "failure" in answer:
                stop(turns, ended.point, place)
    if left := [point.id for queue in (turns.rest, *turns.chosen.values()) for point, _ in queue]:
        raise HardwareError(f"{len(left)} processes were not run: no node is left with the device that their comparisons were measured on")


def stop(turns: Turns, failed: Point, place: Place) -> None:
    """Take back what has not begun of the failed point's sweep if that has run out of memory now, and write why it is not run."""

    def unwanted(one: Process) -> bool:
        return one.number == 1 and one.point.variant == failed.variant and rounds.spent(turns.stage, one.point, place)

    if len(turns.stage.ooms.get((failed.variant, place.name), [])) < rounds.OOMS:
        return
    for process in turns.executor.withdraw(unwanted):
        turns.running -= 1
        if why := rounds.refused(turns.stage, process.point, math.inf, place):
            refuse(turns, process.point, place, why)


def refuse(turns: Turns, point: Point, place: Place, why: tuple[str, str]) -> None:
    """Write why the point is not run."""
    turns.stage.folder.write_point(point.id, "measured", rows.failed(point, place.key or turns.stage.key, *why))
    turns.settled(point)
    turns.stage.progress.done(point.id, why[1])


def assigned(stage: Stage, waiting: Sequence[Job], there: Collection[str]) -> dict[tuple, str]:
    """Where points were measured that are compared with those that wait: a resumed run goes on there, where such devices are there."""
    found: dict[tuple, str] = {}
    for point, number in waiting:
        if number > 1 and (first := rounds.answer(stage, point, 1)) and (place := first.get("where", {}).get("place")):
            found |= {rounds.setting(point): place} if place in there else {}
    return found


def start(turns: Turns) -> bool:
    """Hand over as many processes as are taken now; whether any runs, or some could be refused at once and more may wait."""
    before = turns.running
    for place in turns.executor.places:
        while turns.executor.free(place) > 0 and (job := turns.next(place)):
            begin(turns, job, place)
    return turns.running > before


def refusal(stage: Stage, point: Point, left: float, place: Place, executor: Executor) -> tuple[str, str] | None:
    """Status and reason of a point that is not run there; None of one that is."""
    if found := rounds.refused(stage, point, left, place):
        return found
    words = executor.refusal(point, place)
    return ("skipped", words) if words else None


def begin(turns: Turns, job: Job, place: Place) -> None:
    """Start one process of a point; or write why it is not run."""
    (point, number), stage = job, turns.stage
    left = stage.left_s
    if number == 1 and (found := refusal(stage, point, left, place, turns.executor)):
        refuse(turns, point, place, found)
        return
    first = rounds.answer(stage, point, 1) if number > 1 else None
    if number > 1 and (left <= 0 or first is None or "failure" in first):
        stage.progress.done(point.id, "")
        return
    turns.running += 1
    turns.executor.submit(rounds.process(stage, point, number, left), place)
