"""The dry runs that `check` stands on: the method's orders, LoRA and PiSSA where they are equal in something, the head alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from refta import registry
from refta.shapes import StackShape
from refta_profiler import plan, run, scenario, verdict
from refta_profiler.commands import named_orders, options
from refta_profiler.commands.peak_lines import LAST, PeakLines, edges
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import PEAKS, REFERENCES
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form
from refta_profiler.results import Row


@dataclass(frozen=True)
class Question:
    """What is asked: one model, batch and method under one setting."""

    model: str
    batch: int
    method: str
    settings: dict[str, Any]
    against: str | None
    order: str | None
    target: str
    seq: int | None
    targets: list[str]
    precision: str
    checkpointing: bool
    parallel: str = ""
    step: dict[str, Any] = field(default_factory=dict)  # what else is said of the step, as a scenario has it


@dataclass
class Runs:
    """The points of the question, their rows at its batch, and each one's peak and step FLOPs over the batch.

    order: what `--order` means, None where it is left out. baseline: the label that `--against` means, 'best' where it is left out.
    """

    question: Question
    orders: list[str]
    points: list[Point]
    rows: list[Row]
    lines: dict[str, PeakLines] = field(default_factory=dict)
    step_flops: dict[str, dict[int, int]] = field(default_factory=dict)  # of the same dry runs
    quantity: str = "peak_allocated_bytes"
    order: str | None = None
    baseline: str = "best"

    def point(self, label: str) -> Point:
        """The point of that label."""
        return next(one for one in self.points if one.label == label)

    def values(self, label: str, source: str = "dryrun") -> dict[str, float]:
        """What is known of a label at the question's batch."""
        return {row.metric: row.value for row in self.rows if row.label == label and row.source == source and row.value is not None}

    def predict(self, batches: Mapping[str, Iterable[int]]) -> None:
        """Dry runs of these labels at these batches, into their lines."""
        jobs = [(self._at(label, batch), self.question.target, label) for label, wanted in batches.items() for batch in wanted]
        jobs = [job for job in jobs if job[0].batch not in self.lines[job[2]].peaks]
        for (point, _, label), (_, dry) in run.in_processes(jobs):
            peak = next((row.value for row in dry if row.metric == self.quantity), None)
            if peak is None:
                raise ScenarioError(f"{label} at batch {point.batch}: {next((row.note for row in dry if row.note), 'no peak')}")
            self.lines[label].peaks[point.batch] = int(peak)
            self._keep_flops(label, point.batch, next((row.value for row in dry if row.metric == "step_flops"), None))

    def _at(self, label: str, batch: int) -> Point:
        point = self.point(label)
        return replace(point, batch=batch, id=f"{point.id}-b{batch}")

    def draw_lines(self, labels: Sequence[str]) -> None:
        """The peaks of these labels as functions of the batch."""
        for label in labels:
            known = self.values(label).get(self.quantity)
            self.lines[label] = PeakLines({} if known is None or self.question.batch > LAST else {self.question.batch: int(known)})
            self._keep_flops(label, self.question.batch, self.values(label).get("step_flops"))
        while wanted := {label: self.lines[label].wanted() for label in labels if self.lines[label].wanted()}:
            self.predict(wanted)

    def _keep_flops(self, label: str, batch: int, value: float | None) -> None:
        if value is not None:
            self.step_flops.setdefault(label, {})[batch] = int(value)

    def confirm(self, labels: Sequence[str], batch: int) -> None:
        """Dry runs at the batch that a statement ends with and at the next."""
        if batch < LAST:
            self.predict({label: edges(batch) for label in labels})


def ask(question: Question) -> Runs:
    """The question's points and their rows; errors of usage are ScenarioErrors that list what is possible."""
    registry.settings(question.method, question.settings)
    stacks = closed_form.shapes(question.model, closed_form.sites(question.model, question.method, question.targets))
    names = named_orders.order_names(question.method, question.settings, stacks)
    orders = list(dict.fromkeys(names.values()))
    references = _references(question, orders, stacks)
    others = [*references, *_against(question, orders, references)]
    bound = [] if question.method == "head" else [{"name": "head"}]
    loaded = scenario.from_values(_values(question, [*bound, *_own(question, orders), *others]), "check")
    question = replace(question, target=loaded.target)
    points = _once(plan.points(loaded))
    order, baseline = named_orders.meanings(question, names, points, stacks)
    rows: dict[str, list[Row]] = {}
    for (point, _, _), (closed, dry) in run.in_processes([(point, question.target, "dryrun") for point in points]):
        rows[point.id] = [*closed, *dry]
    found = [row for point in points for row in rows[point.id]]
    return Runs(question, orders, points, found, quantity=quantity_of(rows.values()), order=order, baseline=baseline)


def quantity_of(points: Iterable[Sequence[Row]]) -> str:
    """Reserved bytes where every point that has a predicted peak has that one, otherwise allocated; as verdicts have it (evidence.py)."""
    known = [{row.metric for row in rows if row.source == "dryrun" and row.value is not None} for rows in points]
    running = [metrics for metrics in known if not metrics.isdisjoint(PEAKS)]
    return PEAKS[0] if running and all(PEAKS[0] in metrics for metrics in running) else PEAKS[1]


def _values(question: Question, entries: list[dict[str, Any]]) -> dict[str, Any]:
    values = {
        "model": question.model,
        "methods": entries,
        "batch": [question.batch],
        "target": question.target,
        "targets": question.targets,
        "precision": [question.precision],
        "checkpointing": [question.checkpointing],
        "measure": {"when": "never"},
        **question.step,
    }
    values |= {} if not question.parallel else {"parallel": [question.parallel]}
    return values | ({} if question.seq is None else {"seq": [question.seq]})


def _own(question: Question, orders: list[str]) -> list[dict[str, Any]]:
    entry = {"name": question.method, **question.settings}
    if not orders and question.order is not None:
        raise ScenarioError(f"--order {question.order}: {question.method} has no orders; leave --order out")
    if not orders:
        return [entry]
    if question.order is not None and question.order not in registry.orders(question.method):
        raise ScenarioError(f"--order {question.order}: {question.method} has {', '.join(registry.orders(question.method))}")
    return [{**entry, "order": order} for order in orders]


def _against(question: Question, orders: list[str], references: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entry of `--against` where it names a method that is not there yet; ScenarioError where it names nothing that there is."""
    name = question.against
    if name is None or name in registry.orders(question.method):
        return []
    if name not in registry.names():
        own = (
            f"an order of {question.method} ({', '.join(registry.orders(question.method))})"
            if orders
            else f"{question.method} has no orders"
        )
        raise ScenarioError(f"--against {name}: it is neither {own} nor a method ({', '.join(registry.names())})")
    if name == question.method:
        raise ScenarioError(f"--against {name}: that is the method itself; name one of its orders ({', '.join(orders)}) or another method")
    if name in ("head", *(one["name"] for one in references)):
        return []
    rank = question.settings.get("rank")
    takes_rank = rank is not None and "rank" in registry.setting_names(name)
    return [{"name": name, **({"rank": rank} if takes_rank else {})}]


def _references(question: Question, orders: list[str], stacks: Sequence[StackShape] | None) -> list[dict[str, Any]]:
    """LoRA and PiSSA at the ranks nearest to equal rank, equal parameters and equal step cost; verdict.py says which of them are equal."""
    ranks = reference_ranks(question, orders, stacks)
    return [{"name": name, "rank": rank} for name in REFERENCES if name != question.method for rank in ranks]


def reference_ranks(question: Question, orders: list[str], stacks: Sequence[StackShape] | None) -> list[int]:
    """Ranks of LoRA on the targets: the method's own, and those nearest to its parameters and step FLOPs where both have a closed form.

    stacks: what the method adapts, which for one with sites of its own are not the targets.
    """
    own = getattr(registry.settings(question.method, question.settings), "rank", None)
    found = [own] if isinstance(own, int) else []
    costs = _totals(question.method, question.settings, orders[0] if orders else None, stacks, question)
    targets = closed_form.shapes(question.model, question.targets)
    unit = _totals("lora", {"rank": 1}, None, targets, question)
    if costs and unit:
        found += [max(1, round(mine / one)) for mine, one in zip(costs, unit, strict=True) if one]
    largest = min((min(one.rows, one.columns) for one in targets or []), default=None)
    return list(dict.fromkeys(rank for rank in found if largest is None or rank <= largest))


def _totals(
    method: str, settings: dict[str, Any], order: str | None, stacks: Sequence[StackShape] | None, question: Question
) -> tuple[int, int] | None:
    """Trainable numbers of the adapter and FLOPs of a step, in closed form."""
    found = closed_form.stack_costs(method, settings, order, stacks) if stacks else None
    if not found:
        return None
    tokens = question.batch * options.tokens(question.model, question.seq)
    return closed_form.trainable_parameters(found), sum(one.cost.step_flops.at(tokens) for one in found)


def _once(points: Sequence[Point]) -> list[Point]:
    """The points, of which two with the same label are the same."""
    return list({point.label: point for point in points}.values())


def verdicts_of(runs: Runs, subject: str, memory_bytes: int | None, baseline: str = "best") -> list[verdict.Verdict]:
    """The verdicts with that label as the one that is judged: its rows stand first."""
    rows = sorted(runs.rows, key=lambda row: row.label != subject)
    return verdict.verdicts(rows, baseline=baseline, target=runs.question.target, memory_bytes=memory_bytes)
