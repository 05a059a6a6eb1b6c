"""The numbers that verdicts stand on: what is known of each label under each setting on one target, and what may be set side by side."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from refta_profiler.results import Row

PEAKS = ("peak_reserved_bytes", "peak_allocated_bytes")
REFERENCES = ("lora", "pissa")  # what other methods are compared with
BOUNDS = ("full", "head")  # the most and the least that can be trained
EQUAL = 0.10  # ranks, parameters and adapter FLOPs count as equal within this fraction of the larger
BY_TRUST = ("measured", "dryrun", "contraction")


@dataclass(frozen=True, order=True)
class Setting:
    """What is the same for all labels that are compared with each other."""

    model: str
    seq: int
    precision: str
    checkpointing: bool
    batch: int
    parallel: str = ""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One label under one setting on one target, with every row known of it by (source, metric)."""

    setting: Setting
    label: str
    method: str
    order: str | None
    rank: int | None
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def value(self, metric: str, source: str) -> int | float | None:
        """The metric from that source, None where it is not known."""
        row = self.rows.get((source, metric))
        return row.value if row else None

    def known(self, metric: str) -> int | float | None:
        """The metric from the source to be trusted most that has it."""
        values = (self.value(metric, source) for source in BY_TRUST)
        return next((value for value in values if value is not None), None)

    @property
    def lacks_noise(self) -> bool:
        """Whether it was timed so that no noise floor could be told: its row says why there is none."""
        row = self.rows.get(("measured", "noise_fraction"))
        return row is not None and row.value is None

    @property
    def failure(self) -> str | None:
        """'oom' or 'error' where the point did not run; None where it ran, or was not tried."""
        for source in ("measured", "dryrun"):
            metrics = (*PEAKS, "step_seconds") if source == "measured" else PEAKS  # a predicted peak beyond the memory is still a peak
            rows = [self.rows[source, metric] for metric in metrics if (source, metric) in self.rows]
            broken = [row.status for row in rows if row.status in ("oom", "error")]
            if broken or any(row.status == "ok" for row in rows):
                return broken[0] if broken else None
        return None


@dataclass(frozen=True)
class Family:
    """The orders of one function under one setting, in the scenario's order; and where their peaks are taken from, the same for all."""

    members: list[Candidate]
    source: str
    quantity: str

    def peak(self, candidate: Candidate) -> int | None:
        """Bytes at the peak of a step, None where it is not known or the point did not run."""
        value = None if candidate.failure else candidate.value(self.quantity, self.source)
        return None if value is None else int(value)


def head_target(rows: Iterable[Row]) -> str:
    """The target that the predictions are for: the one with the most predicted rows, or with the most rows where nothing is predicted."""
    rows = list(rows)
    predicted = Counter(row.target for row in rows if row.source != "measured")
    return (predicted or Counter(row.target for row in rows) or Counter(["cpu"])).most_common(1)[0][0]


def candidates(rows: Iterable[Row], target: str) -> list[Candidate]:
    """Everything known for that target, one entry a label and setting, in the rows' order; a closed form holds for every target."""
    rows = list(rows)
    found: dict[tuple[Setting, str], Candidate] = {}
    for row in (row for row in rows if row.target == target):
        candidate = found.setdefault((setting_of(row), row.label), Candidate(setting_of(row), row.label, row.method, row.order, row.rank))
        candidate.rows[row.source, row.metric] = row
    for row in (row for row in rows if row.source == "contraction" and row.target != target):
        if candidate := found.get((setting_of(row), row.label)):
            candidate.rows.setdefault((row.source, row.metric), row)
    return list(found.values())


def setting_of(row: Row) -> Setting:
    """What the row's label is compared under."""
    return Setting(row.model, row.seq or 0, row.precision, row.checkpointing, row.batch, row.parallel)


def stem(label: str, order: str | None) -> str:
    """What the labels of one function share: 'refta/shared r=4' gives 'refta r=4'; a label that does not name its order gives ''."""
    pattern = rf"(?:/| order=| ){re.escape(order)}\b" if order else None
    return re.sub(pattern, "", label, count=1) if pattern and re.search(pattern, label) else ""


def comparable(members: Sequence[Candidate]) -> Family:
    """The members with where their peaks are from: measured where all that run were measured, reserved where all have it."""
    running = [member for member in members if not member.failure and any(member.known(quantity) is not None for quantity in PEAKS)]
    for source in ("measured", "dryrun"):
        for quantity in PEAKS:
            if running and all(member.value(quantity, source) is not None for member in running):
                return Family(list(members), source, quantity)
    return Family(list(members), "dryrun", "peak_allocated_bytes")


def families(found: Iterable[Candidate]) -> list[Family]:
    """The candidates grouped into functions: the same setting, method, rank and stem, each order once.

    One without orders is alone, and so is one whose label does not name its order: what else it differs in is not known. A label that is
    the order's name, and nothing else, names it.
    """
    groups: dict[tuple[Setting, str, int | None, str], list[Candidate]] = {}
    for candidate in found:
        name = stem(candidate.label, candidate.order) or (candidate.label if candidate.label != candidate.order else "")
        groups.setdefault((candidate.setting, candidate.method, candidate.rank, name), []).append(candidate)
    return [comparable(members) for group in groups.values() for members in functions(group)]


def functions(group: list[Candidate]) -> list[list[Candidate]]:
    """The group itself; each by itself where an order comes twice, as `mine shared` and `mine/shared`: which is which is not known."""
    orders = [candidate.order for candidate in group]
    return [group] if len(set(orders)) == len(orders) else [[candidate] for candidate in group]


def difference_errors(rows: Iterable[Row]) -> dict[frozenset[str], float]:
    """For two labels that were both predicted and measured, the largest error of the predicted difference of their peaks, reserved or
    allocated, a fraction."""
    rows = list(rows)
    errors: dict[frozenset[str], float] = {}
    for target, quantity in itertools.product({row.target for row in rows if row.source == "measured"}, PEAKS):
        by_setting: dict[Setting, list[tuple[str, float, float]]] = {}
        for candidate in candidates(rows, target):
            predicted, measured = (candidate.value(quantity, source) for source in ("dryrun", "measured"))
            if predicted and measured:
                by_setting.setdefault(candidate.setting, []).append((candidate.label, predicted, measured))
        for group in by_setting.values():
            for index, (label, predicted, measured) in enumerate(group):
                for other, other_predicted, other_measured in group[index + 1 :]:
                    error = abs((predicted - other_predicted) - (measured - other_measured)) / other_measured
                    pair = frozenset((label, other))
                    errors[pair] = max(error, errors.get(pair, 0.0))
    return errors


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch of one label that fits, and how sure that is.

    `certainty`: it was 'tried'; it lies 'between' two that were; it is guessed 'beyond' the last; it is the largest that was tried and
    fits, and more may ('at least'); it is the smallest that was tried, and does not fit ('below').
    """

    label: str
    model: str
    seq: int | None
    precision: str
    checkpointing: bool
    batch: int
    certainty: str
    quantity: str
    parallel: str = ""

    @property
    def known(self) -> int | None:
        """The batch, None where all that is known is one that does not fit."""
        return None if self.certainty == "below" else self.batch


def largest_batch(rows: Iterable[Row], memory_bytes: int, *, target: str | None = None) -> list[LargestBatch]:
    """For every label the largest batch whose peak fits into `memory_bytes` (a CUDA context already taken off where its size is known).

    Between two tried batches the peak is taken as the straight line: a peak is a maximum of lines in the batch, so the line lies above it
    and what is said to fit, fits. Beyond the last tried batch the last line is drawn on, which is a guess.
    """
    rows = list(rows)
    series: dict[tuple[Setting, str], list[Candidate]] = {}
    for candidate in candidates(rows, target or head_target(rows)):
        alike = replace(candidate.setting, batch=0)
        series.setdefault((alike, candidate.label), []).append(candidate)
    return [fit for (setting, label), members in series.items() if (fit := largest_of(setting, label, comparable(members), memory_bytes))]


def largest_of(setting: Setting, label: str, family: Family, memory_bytes: int) -> LargestBatch | None:
    """The largest batch of one label; None where no peak of it is known."""
    peaks = sorted((member.setting.batch, peak) for member in family.members if (peak := family.peak(member)) is not None)
    broken = [member.setting.batch for member in family.members if member.failure == "oom"]
    tried = [*(batch for batch, _ in peaks), *broken]
    if not tried:
        return None
    batch, certainty = fit_on_lines(peaks, memory_bytes)
    if broken and batch >= min(broken):
        batch = max([size for size, _ in peaks if size < min(broken)], default=0)
        certainty = "tried" if batch + 1 == min(broken) else "at least"
    if not batch and min(tried) > 1:
        batch, certainty = min(tried), "below"
    return LargestBatch(
        label,
        setting.model,
        setting.seq or None,
        setting.precision,
        setting.checkpointing,
        batch,
        certainty,
        family.quantity,
        setting.parallel,
    )


def fit_on_lines(peaks: Sequence[tuple[int, int]], memory_bytes: int) -> tuple[int, str]:
    """The largest batch on the lines through (batch, peak) that fits, 0 where none does, and how sure that is (LargestBatch)."""
    fitting = [batch for batch, peak in peaks if peak <= memory_bytes]
    if not fitting:
        return 0, "tried"
    index = [batch for batch, _ in peaks].index(max(fitting))
    (left, low), certainty = peaks[index], "between" if index + 1 < len(peaks) else "beyond"
    neighbours = peaks[index + 1 : index + 2] or peaks[max(index - 1, 0) : index]
    if not neighbours or (neighbours[0][1] - low) * (neighbours[0][0] - left) <= 0:  # the last one fits; no line says where it ends
        return left, "at least"
    right, high = neighbours[0]
    batch = left + (memory_bytes - low) * (right - left) // (high - low)
    return batch, certainty if batch > left else "tried"
