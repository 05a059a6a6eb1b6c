"""`fit`'s answers: one search a method, order and checkpointing, over the cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from refta import registry
from refta_profiler import devices, models, plan, processes, scenario
from refta_profiler.commands import largest_rank, named_orders, options
from refta_profiler.commands.answer import table
from refta_profiler.commands.largest_fit import Search
from refta_profiler.errors import ScenarioError
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form
from refta_profiler.suggest import closest
from refta_profiler.units import format_bytes, format_percent, parse_bytes

SOLVED = ("batch", "seq", "rank")
METHODS = ("head", "lora", "refta")
BATCH = 8  # examples of a step where another number is solved for and none is said
KERNELS = "h100"  # whose kernels are predicted where no device is named
LAST = {"batch": 65536, "seq": 1 << 20}
START = {"batch": 16, "seq": 128, "rank": 16}


@dataclass(frozen=True)
class Question:
    """What is to fit into what."""

    model: str
    solve: str
    memory: str | None
    target: str | None
    methods: tuple[str, ...]
    settings: dict[str, Any]
    batch: int
    seq: int | None
    targets: list[str]
    precision: str
    step: dict[str, Any] = field(default_factory=dict)  # what else is said of the step, as a scenario has it


@dataclass(frozen=True)
class Budget:
    """The bytes that a step's peak may take, and where they are from."""

    target: str
    memory_bytes: int
    context_bytes: int | None

    @property
    def for_tensors(self) -> int:
        """The memory less the CUDA context, where that is known."""
        return self.memory_bytes - (self.context_bytes or 0)


@dataclass(frozen=True)
class Fit:
    """The largest number that fits for one point; None where it has none, and `limit` says why."""

    label: str
    method: str
    order: str | None
    rank: int | None
    checkpointing: bool
    largest: int | None
    peak_bytes: int | None
    next_peak_bytes: int | None
    quantity: str
    limit: str
    shares: dict[str, float]

    def entry(self, question: Question, budget: Budget) -> dict[str, Any]:
        """As JSON takes it."""
        same = {
            "kind": "fit",
            "model": question.model,
            "solve": question.solve,
            "target": budget.target,
            "budget_bytes": budget.for_tensors,
        }
        return {**same, **vars(self)}


@dataclass(frozen=True)
class Task:
    """One search, as it is handed to a process."""

    point: Point
    solve: str
    budget: Budget
    last: int
    last_is: str


def solve_all(question: Question) -> tuple[Budget, list[Fit]]:
    """The budget and an answer a label and checkpointing; errors of usage are ScenarioErrors that say what is possible."""
    if question.solve not in SOLVED:
        raise ScenarioError(f"--solve {question.solve}: it must be one of {', '.join(SOLVED)}")
    if question.solve == "seq":
        _must_be_text(question)
    _refuse_unknown(question)
    budget = budget_of(question)
    tasks = [_task(question, budget, point) for point in points_of(question)]
    return budget, _in_processes(tasks)


def refuse_solved(solve: str, given: Mapping[str, int | None]) -> None:
    """Nothing; a ScenarioError where the number that is solved for is given as well: it would be as if it had not been."""
    if (number := given.get(solve)) is not None:
        others = " or ".join(f"--solve {name}" for name in SOLVED if name != solve)
        raise ScenarioError(f"--{solve} {number}: {solve} is what is solved for; leave it out, or give {others}")


def points_of(question: Question) -> list[Point]:
    """The points that answers are looked for, in their order."""
    return [point for flag in (False, True) for point in plan.points(_scenario(question, checkpointing=flag))]


def budget_of(question: Question) -> Budget:
    """What may be used; ScenarioError where neither a memory nor a device with a known one is named."""
    device = devices.get(question.target or KERNELS)
    if question.memory is None and question.target is None:
        raise ScenarioError("fit: give --memory, e.g. --memory 24GiB, or --target, e.g. --target l4")
    memory = parse_bytes(question.memory) if question.memory is not None else device.memory_bytes
    if not memory:
        raise ScenarioError(f"--target {device.name}: its memory is not known; give --memory, e.g. --memory 24GiB")
    return Budget(device.name, memory, device.context_bytes)


def _must_be_text(question: Question) -> None:
    own = models.tokens_per_sequence(question.model, None)
    if own is not None:
        raise ScenarioError(f"--solve seq: {question.model} reads images of {own} tokens; solve for batch or rank")


def _refuse_unknown(question: Question) -> None:
    """Nothing; a ScenarioError for a setting that no method takes, which would otherwise be as if it had not been given."""
    takes = {name: registry.setting_names(name) for name in question.methods}
    known = list(dict.fromkeys(key for keys in takes.values() for key in keys))
    for key in question.settings:
        if key not in known:
            near = closest(key, known)
            hint = f"did you mean '{near}'? " if near else ""
            words = "; ".join(f"{name} takes {', '.join(keys) or 'no settings'}" for name, keys in takes.items())
            raise ScenarioError(f"{'--rank' if key == 'rank' else f'--set {key}'}: unknown key '{key}'; {hint}{words}")


def _scenario(question: Question, *, checkpointing: bool) -> scenario.Scenario:
    values = {
        "model": question.model,
        "methods": [entry for name in question.methods for entry in _entries(question, name)],
        "batch": [question.batch],
        "target": question.target or KERNELS,
        "targets": question.targets,
        "precision": [question.precision],
        "checkpointing": [checkpointing],
        "measure": {"when": "never"},
        **question.step,
    }
    return scenario.from_values(values | ({} if question.seq is None else {"seq": [question.seq]}), "fit")


def _entries(question: Question, name: str) -> list[dict[str, Any]]:
    """An entry an order, with those of the settings that the method takes; one method alone must take them all."""
    known = registry.setting_names(name)
    alone = len(question.methods) == 1
    settings = {key: value for key, value in question.settings.items() if alone or key in known}
    registry.settings(name, settings)
    stacks = closed_form.shapes(question.model, closed_form.sites(question.model, name, question.targets))
    orders = named_orders.distinct_orders(name, settings, stacks)
    return [{"name": name, **settings, **({"order": order} if order else {})} for order in orders or [None]]


def _task(question: Question, budget: Budget, point: Point) -> Task:
    last, words = LAST.get(question.solve, 0), "the largest that is tried"
    if question.solve == "seq" and (most := models.longest_sequence(point.model)):
        last, words = most, f"the {most:,} positions of {point.model}"
    if question.solve == "rank":
        last, words = largest_rank.of(point)
    return Task(point, question.solve, budget, last, words)


def _in_processes(tasks: Sequence[Task]) -> list[Fit]:
    workers = min(os.cpu_count() or 1, -(-len(tasks) // 4)) or 1
    if workers == 1:
        return [search(one) for one in tasks]
    jobs = [(number, (task,)) for number, task in enumerate(tasks)]
    found = {number: future.result() for number, future in processes.ended(search, jobs, workers, processes.one_thread)}
    return [found[number] for number in range(len(tasks))]


def search(task: Task) -> Fit:
    """The answer of one task. A point that cannot be dry-run has its reason for an answer, or for the limit where smaller ones can."""
    if not task.last:
        return _fit(task, limit=task.last_is)
    seen: dict[int, Any] = {}
    failed: dict[int, str] = {}

    def peak(number: int) -> int | None:
        try:
            return _peak(task, number, seen)
        except Exception as error:  # whatever a model or a method does under fake tensors is an answer with its reason
            failed[number] = f"cannot be predicted: {type(error).__name__}: {error}"
            return None

    looking = Search(peak, task.budget.for_tensors, task.last)
    found = looking.run(START[task.solve])
    if (found or 1) in failed:
        return _fit(task, limit=failed[found or 1])
    shares = _shares(seen[found or 1])
    quantity = "peak_allocated_bytes" if seen[found or 1].peak_reserved_bytes is None else "peak_reserved_bytes"
    peaks = (looking.peaks.get(found), looking.peaks.get(found + 1))
    return _fit(task, limit=_limit(task, found, shares, failed), largest=found, peaks=peaks, quantity=quantity, shares=shares)


def _fit(
    task: Task,
    *,
    limit: str,
    largest: int | None = None,
    peaks: tuple[int | None, int | None] = (None, None),
    quantity: str = "",
    shares: dict[str, float] | None = None,
) -> Fit:
    point = task.point
    rank = None if task.solve == "rank" else point.rank
    named = (point.label, point.method, point.order, rank, point.checkpointing)
    return Fit(*named, largest, *peaks, quantity, limit, shares or {})


def _peak(task: Task, number: int, seen: dict[int, Any]) -> int:
    """The peak with that batch, sequence or rank, by a dry run. Slice ranks are the weights' own, but for a rank that is solved for."""
    from refta_profiler.predict import slice_ranks
    from refta_profiler.predict.dryrun import dry_run

    point = task.point
    if task.solve == "rank":
        point = replace(point, settings={**point.settings, "rank": number}, rank=number)
    else:
        point = replace(point, **{task.solve: number})  # pyright: ignore[reportArgumentType]
    ranks = None if task.solve == "rank" else slice_ranks.known(point)
    seen[number] = dry_run(point, task.budget.target, ranks)
    return seen[number].peak_reserved_bytes or seen[number].peak_allocated_bytes


def _shares(found: Any) -> dict[str, float]:
    """What the peak consists of, as fractions, largest first."""
    total = sum(found.by_category.values()) or 1
    parts = {name: value / total for name, value in found.by_category.items() if value / total >= 0.01}
    return dict(sorted(parts.items(), key=lambda one: -one[1]))


def _limit(task: Task, found: int, shares: dict[str, float], failed: Mapping[int, str]) -> str:
    """What keeps it from being larger."""
    if found == task.last:
        return task.last_is
    if found + 1 in failed:
        return f"{found + 1:,} {failed[found + 1]}"
    words = ", ".join(f"{name} {format_percent(share)}" for name, share in list(shares.items())[:3])
    return f"memory: {words}" if found else f"memory: not even 1 fits ({words})"


def text(question: Question, budget: Budget, rows: Sequence[Fit]) -> str:
    """The table with a sentence at its head."""
    context = f", of them {format_bytes(budget.context_bytes)} for the CUDA context" if budget.context_bytes else ""
    context = f", {devices.UNCOUNTED}" if budget.context_bytes is None else context
    where = f"{format_bytes(budget.memory_bytes)}{context}, kernels of {budget.target}"
    fixed = {
        "batch": f"sequence {question.seq}" if question.seq else "",
        "seq": f"batch {question.batch}",
        "rank": f"batch {question.batch}",
    }
    words = (question.precision, fixed[question.solve], f"on {' and '.join(question.targets)}", options.step_words(question.step))
    setting = ", ".join(one for one in words if one)
    head = f"The largest {question.solve} of {question.model} in {where} ({setting})"
    ranked = question.solve != "rank"
    cells = [["method", *(["rank"] if ranked else []), "checkpointing", question.solve, "peak", "the next one's", "what limits it"]]
    for one in rows:
        peaks = ["–" if peak is None else format_bytes(peak) for peak in (one.peak_bytes, one.next_peak_bytes)]
        largest = "–" if one.largest is None else f"{one.largest:,}"
        rank = [str(one.rank or "")] if ranked else []
        cells.append([one.label, *rank, "on" if one.checkpointing else "off", largest, *peaks, one.limit])
    kinds = {one.quantity for one in rows if one.quantity}
    kind = "bytes reserved by the allocator" if kinds == {"peak_reserved_bytes"} else "allocated bytes"
    assumed = question.solve == "rank" and any(one.order == "slices" for one in rows)
    notes = "\nSlice ranks are assumed, R spread evenly, since they depend on rank and weights." if assumed else ""
    return f"{head}\n{table(cells, indent='  ')}\nPeaks are {kind} at the most during a step, each from a dry run.{notes}"
