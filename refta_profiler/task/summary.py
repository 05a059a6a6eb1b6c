"""What the training runs of a scenario come to: each method at the learning rate that validation chose, and the differences. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy

from refta_profiler.evidence import BOUNDS, EQUAL, REFERENCES
from refta_profiler.run_folder import RunFolder
from refta_profiler.task import bootstrap, store
from refta_profiler.task.bootstrap import Array, Interval, Scored
from refta_profiler.task.store import Trained

WINDOW = 10  # steps over which a training loss is averaged: single batches jump


@dataclass(frozen=True)
class Method:
    """One label: all its runs, and those at the chosen learning rate by seed."""

    label: str
    method: str
    point: str
    rates: tuple[float, ...]
    runs: tuple[Trained, ...]
    lr_seeds: tuple[int, ...]
    seeds: tuple[int, ...]

    @cached_property
    def rate(self) -> float | None:
        """The rate with the best mean score on the validation split over `lr_seeds`, the lower of equals; None where all failed."""
        means = {}
        for rate in self.rates:
            scores = [run.validation for run in self.runs if run.rate == rate and run.seed in self.lr_seeds]
            known = [score for score in scores if score is not None]
            if len(known) == len(self.lr_seeds):
                means[rate] = statistics.fmean(known)
        return max(means, key=lambda rate: (means[rate], -rate)) if means else None

    @cached_property
    def chosen(self) -> list[Trained]:
        """The runs at the chosen rate, by seed; empty unless there is one of every seed."""
        found = {run.seed: run for run in self.runs if run.rate == self.rate and not run.failure}
        return [found[seed] for seed in self.seeds] if all(seed in found for seed in self.seeds) else []

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is the least or the largest of several: another might have been better still."""
        return len(self.rates) > 1 and self.rate in (self.rates[0], self.rates[-1])

    @property
    def failure(self) -> str:
        """Why there is no score; '' where there is one, or runs are still missing."""
        return "" if self.chosen else next((run.failure for run in self.runs if run.failure), "")

    @property
    def parameters(self) -> int | None:
        """Numbers trained, the head included."""
        return next((run.parameters for run in self.runs if run.parameters is not None), None)

    @property
    def adapter_parameters(self) -> int | None:
        """Numbers trained, the head left out; None where the runs do not tell it."""
        return next((run.adapter_parameters for run in self.runs if run.adapter_parameters is not None), None)

    def median(self, name: str) -> float | None:
        """The median over the chosen runs of a number that they all have."""
        values = [getattr(run, name) for run in self.chosen]
        return statistics.median(values) if values and None not in values else None

    @cached_property
    def losses(self) -> list[float]:
        """The training loss of every step, averaged over the last WINDOW steps and the seeds."""
        return [statistics.fmean(column) for column in zip(*(smooth(run.losses) for run in self.chosen), strict=False)]

    def steps_to(self, loss: float) -> list[int]:
        """Steps of every seed until its averaged training loss is first at or below that; seeds that do not reach it are left out."""
        found = [first_below(smooth(run.losses), loss) for run in self.chosen]
        return [steps for steps in found if steps is not None]


def smooth(losses: Sequence[float]) -> list[float]:
    """Each step's mean over the WINDOW steps up to it."""
    return [statistics.fmean(losses[max(0, place - WINDOW + 1) : place + 1]) for place in range(len(losses))]


def first_below(losses: Sequence[float], limit: float) -> int | None:
    """Steps done when the loss is first at or below the limit, once a whole window is averaged: [3, …, 1] in the tenth step is 10."""
    return next((place + 1 for place, loss in enumerate(losses) if place + 1 >= min(WINDOW, len(losses)) and loss <= limit), None)


@dataclass(frozen=True)
class Difference:
    """One method's test score less another's."""

    subject: str
    against: str
    comparison: str  # 'equal parameters', or what the other is
    interval: Interval

    @property
    def outcome(self) -> str:
        """better, worse, the same, not worse or not told apart."""
        return bootstrap.outcome(self.interval)


@dataclass(frozen=True)
class Summary:
    """All methods of a run, in the scenario's order."""

    methods: Sequence[Method]
    shared: Mapping[str, Any]

    @classmethod
    def of(cls, folder: RunFolder) -> Summary | None:
        """The summary of a stored run; None where it trains nothing."""
        shared = store.read_shared(folder)
        if not shared:
            return None
        found = []
        for one in shared["methods"]:
            runs = tuple(store.read_all(folder, one["files"]))
            seeds = tuple(shared["seeds"])
            found.append(Method(one["label"], one["method"], one["point"], tuple(one["rates"]), runs, seeds[: shared["lr_seeds"]], seeds))
        return cls(found, shared)

    @property
    def metric(self) -> str:
        """'accuracy' or 'correlation'."""
        return str(self.shared["metric"])

    @property
    def counted_seeds(self) -> str:
        """'1 seed', '5 seeds'."""
        count = len(self.shared["seeds"])
        return "1 seed" if count == 1 else f"{count} seeds"

    @property
    def items(self) -> int:
        """Test items."""
        return int(self.shared["items"]["test"])

    @cached_property
    def scored(self) -> dict[str, Scored]:
        """The test outcomes of every label that has them for all seeds."""
        truth = None if self.shared.get("truth") is None else numpy.array(self.shared["truth"], dtype=float)
        done = {one.label: one.chosen for one in self.methods if one.chosen}
        return {label: Scored(numpy.array([run.outcomes for run in runs], dtype=float), truth) for label, runs in done.items()}

    @cached_property
    def draws(self) -> Array:
        """The replicates, the same for every label."""
        return bootstrap.draw_items(self.items)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Every label's score with its interval over seeds and items."""
        return {label: bootstrap.interval(scored, self.draws) for label, scored in self.scored.items()}

    def named(self, label: str) -> Method:
        """The method of that label."""
        return next(one for one in self.methods if one.label == label)

    @cached_property
    def differences(self) -> list[Difference]:
        """Every scored method against LoRA and PiSSA entries, full and head; a reference against those listed before it."""
        done = [one for one in self.methods if one.label in self.scored]
        references = [one for one in done if one.method in (*REFERENCES, *BOUNDS)]
        pairs = [(one, other) for one in done for other in references if one is not other]
        seen: set[frozenset[str]] = set()
        found = []
        for one, other in sorted(pairs, key=lambda pair: (pair[0].method in BOUNDS, pair[0].method in REFERENCES)):
            if (key := frozenset((one.label, other.label))) not in seen:
                seen.add(key)
                found.append(self.difference(one, other))
        return found

    def difference(self, one: Method, other: Method) -> Difference:
        """One method against another."""
        around = bootstrap.difference(self.scored[one.label], self.scored[other.label], self.draws)
        return Difference(one.label, other.label, comparison(other, *map(self.adapter_parameters, (one, other))), around)

    def adapter_parameters(self, one: Method) -> int | None:
        """Numbers of a method's adapter, which the head that all of them train must not blur; None where they are not known.

        Where the stored runs do not tell them, they are all numbers less those of an entry of the head alone.
        """
        head = next((other.parameters for other in self.methods if other.method == "head"), None)
        if one.adapter_parameters is not None or one.parameters is None or head is None:
            return one.adapter_parameters
        return one.parameters - head

    def decisive(self, label: str) -> Difference | None:
        """The comparison that says most about a method: PiSSA, else LoRA, at equal parameters; else the one nearest in parameters."""
        found = [one for one in self.differences if one.subject == label and self.named(one.against).method in REFERENCES]
        equal = [one for one in found if one.comparison == "equal parameters"]
        if equal:
            return min(equal, key=lambda one: self.named(one.against).method != "pissa")
        return min(found, key=lambda one: self.distance(label, one.against), default=None)

    def distance(self, label: str, other: str) -> float:
        """How far two methods' trained numbers are apart, as the larger over the smaller."""
        counts = [max(self.adapter_parameters(self.named(name)) or 1, 1) for name in (label, other)]
        return max(counts) / min(counts)


def comparison(other: Method, ours: int | None, theirs: int | None) -> str:
    """'equal parameters' where the adapters train as many numbers within EQUAL; otherwise how many times the other's it is."""
    if other.method in BOUNDS:
        return {"full": "the whole model trained", "head": "the head alone"}[other.method]
    if ours is None or theirs is None or ours <= 0 or theirs <= 0:
        return "parameters not comparable"
    if abs(ours - theirs) <= EQUAL * max(ours, theirs):
        return "equal parameters"
    return f"{ours / theirs:.3g} times the parameters"
