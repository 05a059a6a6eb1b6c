"""A point's measuring processes: what each round is asked, what was answered and is kept, and what is not run and why.

Round 1 measures everything of a point, later rounds its time alone. What each process answered is kept (processes/), and a point's rows
are made from all of its answers that are from one device and one set of versions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from refta_profiler.devices import named_device
from refta_profiler.measure import isolate, rows
from refta_profiler.measure.executors import EXECUTOR, Answer, Place, Process
from refta_profiler.plan import Point
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Measure
from refta_profiler.statistics import alike, make, same
from refta_profiler.whole_files import write_whole

LEAST_S = 60.0  # that a process gets on a CPU however little of the budget is left
LONGER = 1.1  # times as long as a process had: where it was late, it is measured again
CUT = 1.01  # the same of one that the end of the budget cut off: with what it had of its limit, or of a whole budget, it would be again
OOMS = 2  # of one method, after which its larger batches are not tried
TIMED = ("samples", "loads", "load", "bare", "gpu", "gpu_others", "not_forked", "setup_seconds", "setup_watched")
RAW = ("values", "faults", "afterwards", "ranks", "where", "failure", *TIMED)  # what rows are made of
FILES = {"kernels": ("trace", ".json.gz"), "history": ("history", ".memory.pickle")}  # by instrument: what it is called, how it ends
DEVICE, WEIGHTS = "device", "weights"  # beside what a process is asked, in its file: the kind of device, and which pretrained weights
UNKNOWN = ""  # the device of an answer that does not say it: one from before answers did, or of a process that died


@dataclass
class Stage:
    """One measuring of points on devices of one kind, 'cuda' or 'cpu'; `key` is what rows call the one that is this machine's."""

    measure: Measure
    folder: RunFolder
    device: str
    key: str
    progress: Any
    retry_errors: bool = False  # whether processes that failed are run again, whatever they failed by
    started: float = field(default_factory=lambda: time.monotonic())
    ooms: dict[tuple, list[int]] = field(default_factory=dict)  # batches that ran out of memory, by variant and place
    identify: Callable[[], dict[str, str]] = dict  # what would answer now: its device, where that is known, and versions
    weights: str = ""  # which pretrained ones, as weight_identity has it; '' for random ones, and where that is not known
    places: frozenset[str] = frozenset()  # where processes can be run now
    keys: dict[str, str] = field(default_factory=dict)  # what rows call the devices met so far, by what these call themselves
    told: set[str] = field(default_factory=set)  # what the progress was told once

    @property
    def settings(self) -> Any:
        """Warm-up, steps and repeats of the device at hand."""
        return self.measure if self.device == "cuda" else self.measure.on_cpu

    @cached_property
    def at_hand(self) -> dict[str, str]:
        """What would answer now, as statistics.make has it; asked for where there is an answer to compare it with."""
        return self.identify()

    def setting(self, name: str) -> str:
        """What a scenario calls that one of them."""
        return f"measure.{name}" if self.device == "cuda" else f"measure.on_cpu.{name}"

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left; a GPU has none to keep."""
        return math.inf if self.device == "cuda" else self.measure.on_cpu.budget_s - (time.monotonic() - self.started)

    @property
    def longest_s(self) -> float:
        """Seconds that a process has at most."""
        return self.settings.limit_s if self.device == "cuda" else min(self.settings.limit_s, self.measure.on_cpu.budget_s)

    @property
    def used_up(self) -> str:
        """That there is no budget left, in words."""
        return f"the budget of {self.measure.on_cpu.budget_s:g} s for measuring on the CPU was used up"

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
        for point in in_turn(points, number):
            if wanted(stage, point, number):
                yield point, number


def in_turn(points: Sequence[Point], number: int) -> list[Point]:
    """The points in that round's order, of which a place in a round, warm or late in it, favours none: A B C, C B A, B C A, A C B, ….

    Those that are compared change places with each other alone. Every second round is the one before it in reverse, so that what grows
    steadily within a round adds up to the same for all; then they begin one later.
    """
    settings: dict[tuple, list[Point]] = {}
    for point in points:
        settings.setdefault(setting(point), []).append(point)
    begin, back = divmod(number - 1, 2)
    turned = [[*group[begin % len(group) :], *group[: begin % len(group)]] for group in settings.values()]
    return [point for group in turned for point in (reversed(group) if back else group)]


def wanted(stage: Stage, point: Point, number: int) -> bool:
    """Whether the process is to be run: it gave no answer that stands, and nothing that is known of the point rules it out."""
    if (found := answer(stage, point, number)) is not None:
        return passing(stage, found) or outdated(stage, point, number, found)
    first = answer(stage, point, 1)
    return not ruled_out(stage, point) if first is None else "failure" not in first or passing(stage, first)


def outdated(stage: Stage, point: Point, number: int, found: Answer) -> bool:
    """Whether the answer makes no figure with the point's others and one from now would: the unfinished point was begun elsewhere.

    What would answer now is of another device or has other versions. Where the device is not known before, that of the first process is
    wanted, and the process is run again if that place is still there.
    """
    if otherwise(stage, point, found):
        return not finished(stage, point)
    if number == 1 or "device" in stage.at_hand:
        return False
    first = answer(stage, point, 1)
    if first is None or same(make(first), make(found)):
        return False
    return first.get("where", {}).get("place") in stage.places


def finished(stage: Stage, point: Point) -> bool:
    """Whether all of the point's processes have answered, as one device and one set of versions do; or the first failed for good."""
    found = {number: one for number in range(1, stage.settings.repeats + 1) if (one := answer(stage, point, number)) is not None}
    if 1 in found and "failure" in found[1]:
        return not passing(stage, found[1])
    return len(found) == stage.settings.repeats == len(alike(found)) and not any(passing(stage, one) for one in found.values())


def begun_elsewhere(stage: Stage, points: Sequence[Point]) -> list[str]:
    """What there is to say of points that were measured on another device or with other versions than a process would have now."""
    stand: dict[str, int] = {}
    anew: dict[str, int] = {}
    for point in points:
        if (first := answer(stage, point, 1)) is not None and (words := otherwise(stage, point, first)):
            counts = stand if finished(stage, point) else anew
            counts[words] = counts.get(words, 0) + 1
    told = [f"{many(count, f'begun with {words}')} measured anew, so that no figure is of both" for words, count in anew.items()]
    return told + [f"{many(count, f'measured with {words}')} left as measured" for words, count in stand.items()]


def otherwise(stage: Stage, point: Point, found: Answer) -> str:
    """'torch 2.13.0 (here 2.14.0), …': what the answer is from otherwise than one from now would be; '' where they are the same."""
    there, here = (told_of_ranks(one) if point.parallel else one for one in (make(found), stage.at_hand))
    names = [name for name in there if name in here and there[name] != here[name]]
    if "torch" in names and "torch_build" in names:
        names.remove("torch_build")
    return ", ".join(f"{name.replace('_', ' ')} {there[name]} (here {here[name]})" for name in names)


def told_of_ranks(found: dict[str, str]) -> dict[str, str]:
    """The same without a processor's threads, of which a rank has other ones than the driver."""
    device = found.get("device", "")
    return found | ({"device": device.rpartition(", ")[0]} if device.startswith("cpu: ") and ", " in device else {})


def many(count: int, what: str) -> str:
    """'1 point, begun there: it is', '3 points, begun there: they are'."""
    return f"1 point, {what}: it is" if count == 1 else f"{count} points, {what}: they are"


def passing(stage: Stage, found: Answer) -> bool:
    """Whether the process failed and may be run again: its point is not to blame, it would get more time, or errors are to be retried.

    Among these is having run out of memory beside others on the GPU.
    """
    failure = found.get("failure", {})
    broken = [failure, *found.get("faults", {}).values(), *found.get("afterwards", {}).values()]
    if stage.retry_errors and (failure.get("others") or any(one.get("status") == "error" for one in broken)):
        return True
    skipped = failure.get("status") == "skipped"
    if "limit_s" in failure:
        return stage.longest_s > (CUT if skipped else LONGER) * failure["limit_s"]
    return skipped or failure.get("by") == EXECUTOR


def ruled_out(stage: Stage, point: Point) -> bool:
    """Whether the point has rows that no process gave, and that no process will change; one that was skipped may run now."""
    if stage.folder.process(point.id, 1) is not None:
        return False
    there = stage.folder.read(point.id, "measured")
    return bool(there) and any(row.status != "skipped" for row in there)


def answer(stage: Stage, point: Point, number: int) -> dict[str, Any] | None:
    """What the point's process of that round answered; None where none was run, or for other things, or on the other kind of device."""
    content = stage.folder.process(point.id, number)
    if content is None:
        return None
    asked = dict(content["asked"])
    weights = asked.pop(WEIGHTS, stage.weights)  # one of before does not tell them
    kind = asked.pop(DEVICE, "") or device_of(content["answer"]).partition(":")[0]  # one of before tells it by where it was, if at all
    same_weights = weights == stage.weights or not stage.weights
    return content["answer"] if asked == stage.asked(number) and kind in (UNKNOWN, stage.device) and same_weights else None


def process(stage: Stage, point: Point, number: int, left: float) -> Process:
    """What the point's process of that round is asked; on a CPU it gets no more time than is left of the budget."""
    asked = stage.asked(number)
    files = {
        name: stage.folder.trace_path(point.id, end) for instrument, (name, end) in FILES.items() if instrument in asked["instruments"]
    }
    limit_s = min(stage.settings.limit_s, max(left, LEAST_S))
    return Process(point, number, stage.device, limit_s, asked, files, stage.measure.busy_gpu)


def keep(stage: Stage, ended: Process, found: Answer, place: Place) -> str:
    """Write what a process answered, and the point's rows; what there is to say of it.

    What it measured before stays where it was only run again (--retry-errors) and failed.
    """
    point, found = ended.point, of_session(stage, within_budget(stage, found))
    tell_once(stage, found.get("not_forked", ""))
    if "failure" in found and stands(stage, point, ended.number):
        return f"run again, and failed: {found['failure']['note']}; what was measured before stays"
    for name, content in found.get("files", {}).items():
        write_whole(ended.files[name], content)
    failure = found.get("failure", {})
    if ended.number == 1:
        count_oom(stage, point, failure, place.name)
        details = {name: value for name, value in found.items() if name not in (*RAW, "files")}
        stage.folder.write_details(point.id, details | failure | ({"where": found["where"]} if "where" in found else {}))
    # after all that belongs to it: a process that has its file is not run again
    asked = {**stage.asked(ended.number), DEVICE: stage.device, **({WEIGHTS: stage.weights} if stage.weights else {})}
    stage.folder.write_process(point.id, ended.number, asked, {name: one for name, one in found.items() if name in RAW})
    given = answers(stage, point)
    stage.folder.write_point(point.id, "measured", rows.unsettled(point, stage.key_of(given[1]), given))
    return failure.get("note") or rows.fault_words(found.get("faults", {}))


def stands(stage: Stage, point: Point, number: int) -> bool:
    """Whether there is an answer of that process with times, from what would answer now."""
    found = answer(stage, point, number)
    return found is not None and bool(found.get("samples")) and not otherwise(stage, point, found)


def of_session(stage: Stage, found: Answer) -> Answer:
    """The answer, with the session of the run that it is from in `where`."""
    session = {} if stage.folder.session is None else {"session": stage.folder.session}
    return {**found, "where": {**found.get("where", {}), **session}} if session else found


def within_budget(stage: Stage, found: Answer) -> Answer:
    """The answer; of a process that was late, with the setting that gives it longer, or `skipped` where the budget ended it before that."""
    failure = found.get("failure", {})
    if "late" not in failure:
        return found
    if stage.device != "cuda" and failure["limit_s"] < stage.settings.limit_s:
        return {**found, "failure": {**failure, "status": "skipped", "note": f"{stage.used_up} while it ran ({failure['note']})"}}
    return {**found, "failure": {**failure, "note": f"{failure['note']} ({stage.setting('limit_s')} gives it longer)"}}


def tell_once(stage: Stage, words: str) -> None:
    """The progress is told, if there is anything to tell and it was not told before."""
    if words and words not in stage.told:
        stage.told.add(words)
        stage.progress.say(words)


def count_oom(stage: Stage, point: Point, failure: Answer, place: str) -> None:
    """The stage knows that the point ran out of memory at that place, if it did and nobody else was there."""
    if failure.get("status") == "oom" and not failure.get("others"):
        stage.ooms.setdefault((point.variant, place), []).append(point.batch)


def spent(stage: Stage, point: Point, place: Place) -> bool:
    """Whether so many smaller batches of the point's variant ran out of memory there that it is not tried."""
    return sum(batch < point.batch for batch in stage.ooms.get((point.variant, place.name), [])) >= OOMS


def refused(stage: Stage, point: Point, left: float, place: Place) -> tuple[str, str] | None:
    """Status and reason of a point that is not run; None of one that is."""
    if point.unsupported:
        return "unsupported", point.unsupported
    if spent(stage, point, place):
        return "skipped", f"two smaller batches of {point.label} ran out of memory"
    if left <= 0:
        return "skipped", stage.used_up
    return None


def once(stage: Stage) -> str:
    """Why a point was timed in too few processes, or what to ask for so that it is in more."""
    if stage.settings.repeats < 2:
        return f"{stage.setting('repeats')}: 2 or more"
    return stage.used_up if stage.left_s <= 0 else "none of its other processes gave a time on the same device with the same versions"


def answers(stage: Stage, point: Point) -> dict[int, Answer]:
    """What the point's processes answered, by round; those alone that are from the first one's device and versions."""
    found = {number: answer(stage, point, number) for number in range(1, stage.settings.repeats + 1)}
    return alike({number: one for number, one in found.items() if one is not None})


def setting(point: Point) -> tuple:
    """What points share that are compared with each other."""
    return point.model, point.seq, point.precision, point.checkpointing, point.batch, point.parallel
