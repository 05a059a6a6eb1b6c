"""How far predictions are from measurements: errors of values and of differences, and who wins each pair. No torch."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from refta_profiler import parallel
from refta_profiler.errors import ScenarioError
from refta_profiler.results import Row

GIB = 1 << 30
LABEL_COLUMNS = ("form", "cores")


@dataclass(frozen=True)
class Pair:
    """One value predicted and measured, in the same unit."""

    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """(predicted − measured) / measured; predicted 98 for 100 measured is −0.02."""
        return (self.predicted - self.measured) / self.measured


@dataclass(frozen=True)
class Validation:
    """The pairs of one metric and what they say; fractions of the measured value unless in the metric's unit."""

    metric: str
    pairs: tuple[Pair, ...]

    @property
    def worst(self) -> float:
        """The largest error by size."""
        return max(abs(pair.error) for pair in self.pairs)

    @property
    def median(self) -> float:
        """The median error by size."""
        return statistics.median(abs(pair.error) for pair in self.pairs)

    @property
    def percentile_95(self) -> float:
        """The 95th percentile of the errors by size (nearest rank)."""
        ordered = sorted(abs(pair.error) for pair in self.pairs)
        return ordered[-(-len(ordered) * 95 // 100) - 1]

    @property
    def spread(self) -> float:
        """From the lowest to the highest error, signs kept."""
        errors = [pair.error for pair in self.pairs]
        return max(errors) - min(errors)

    @property
    def worst_difference(self) -> float:
        """The largest error of a difference between two points, in the metric's unit: a constant offset costs nothing here."""
        offsets = [pair.predicted - pair.measured for pair in self.pairs]
        return max(offsets) - min(offsets)

    def winners(self) -> tuple[int, int]:
        """For how many pairs of points the prediction names the smaller one right, and how many there are (ties left out)."""
        right = total = 0
        for one, other in combinations(self.pairs, 2):
            if one.measured != other.measured and one.predicted != other.predicted:
                total += 1
                right += (one.measured < other.measured) == (one.predicted < other.predicted)
        return right, total


def from_rows(rows: Sequence[Row]) -> list[Validation]:
    """Every metric that a run both predicted and measured for the same point on the same device; nothing where the run has none."""
    predicted = {(row.point, row.target, row.metric): row for row in rows if row.source == "dryrun" and row.value is not None}
    found: dict[str, list[Pair]] = {}
    for row in rows:
        other = predicted.get((row.point, row.target, row.metric))
        if row.source == "measured" and row.value and other is not None and other.value is not None:
            found.setdefault(row.metric, []).append(Pair(_name(row, rows), other.value, row.value))
    return [Validation(metric, tuple(pairs)) for metric, pairs in found.items()]


def _name(row: Row, rows: Sequence[Row]) -> str:
    """A point's name: its label and batch, and whatever else tells the run's points apart."""
    others = {
        f"of {row.seq} tokens": {one.seq for one in rows},
        row.precision: {one.precision for one in rows},
        "checkpointing" if row.checkpointing else "": {one.checkpointing for one in rows},
        parallel.words(row.parallel): {one.parallel for one in rows},
    }
    return ", ".join([row.label, f"batch {row.batch}", *(words for words, kinds in others.items() if len(kinds) > 1 and words)])


def from_published(rows: Sequence[Row], path: Path, *, less: int = 0) -> Validation:
    """Predicted peaks against a CSV of published ones (columns form, cores, peak_gib; a label is "FORM CORES").

    less: bytes taken off every published peak, for what the library's version then kept and does not now.
    Raises ScenarioError where a published row has no point of its label, or the file is not of that form.
    """
    peaks = {
        row.label: row.value for row in rows if row.source == "dryrun" and row.metric == "peak_allocated_bytes" and row.value is not None
    }
    pairs = []
    for number, entry in enumerate(_published(path), start=2):
        label = " ".join(entry[name] for name in LABEL_COLUMNS)
        if label not in peaks:
            raise ScenarioError(f"{path}: line {number}: {_missing(rows, label)}")
        pairs.append(Pair(label, peaks[label], float(entry["peak_gib"]) * GIB - less))
    return Validation("peak_allocated_bytes", tuple(pairs))


def _missing(rows: Sequence[Row], label: str) -> str:
    """Why no peak is predicted under that label."""
    failed = next((row for row in rows if row.label == label and row.metric == "peak_allocated_bytes" and row.note), None)
    if failed is not None:
        return f"the scenario's '{label}' has no predicted peak: {failed.note}"
    return f"the scenario has no point labelled '{label}'"


def _published(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            entries = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    wanted = {*LABEL_COLUMNS, "peak_gib"}
    if not entries or not wanted <= set(entries[0]):
        raise ScenarioError(f"{path}: no rows with the columns {', '.join(sorted(wanted))}")
    return entries
