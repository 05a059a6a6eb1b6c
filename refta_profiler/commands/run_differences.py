"""The differences of two runs as data: every compared metric of the same points, and which of them can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refta_profiler import parallel
from refta_profiler.commands.validate import percent
from refta_profiler.repeats import Repeat, Repeats, repeats
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder

COMPARED = (
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "static_bytes",
    "trainable_parameters",
    "step_flops",
    "step_seconds",
    "setup_seconds",
)


@dataclass(frozen=True)
class Difference:
    """One metric of one point in two runs; the fraction is of the first. `told_apart` is False where intervals of a time overlap."""

    point: str
    name: str
    target: str
    source: str
    metric: str
    first: float
    second: float
    fraction: float
    told_apart: bool
    relative_fraction: float | None = None  # of a time: with what the whole run differs by taken off
    floor_fraction: float | None = None  # and what chance alone does to it at 95%


def differences(first: Sequence[Row], second: Sequence[Row]) -> list[Difference]:
    """Every compared metric that both runs have of a point, from the same source for the same target; the largest change first."""
    before = {row.cell: row for row in first}
    after = {row.cell: row for row in second}
    found = []
    for place, row in before.items():
        other = after.get(place)
        if row.metric not in COMPARED or other is None or row.value is None or other.value is None:
            continue
        fraction = other.value / row.value - 1 if row.value else float(other.value != 0)
        timing = row.source == "measured" and row.metric in ("step_seconds", "setup_seconds")
        told = not timing or (row.metric == "step_seconds" and apart(before, after, place))  # a set-up is timed too seldom to be judged
        parts = [f"{row.label}, batch {row.batch}" + (f" of {row.seq}" if row.seq else ""), "checkpointing" if row.checkpointing else ""]
        name = ", ".join(part for part in [*parts, parallel.words(row.parallel)] if part)
        found.append(Difference(row.point, name, row.target, row.source, row.metric, row.value, other.value, fraction, told))
    return sorted(found, key=lambda one: -abs(one.fraction))


def with_times(first: RunFolder, second: RunFolder, found: Sequence[Difference]) -> tuple[list[Difference], Repeats | None]:
    """The differences, those of measured times judged by the runs' processes where these were kept; and what these say of the times."""
    before, after = ({row.cell: row for row in run.rows() if is_time(row)} for run in (first, second))
    times = repeats(first, second, {place: (before[place], after[place]) for place in before if place in after})
    known = {place: one for one in (times.points if times else []) for place in [before[one.place].point]}
    judged = [
        timed(one, known[one.point]) if (one.metric, one.source) == ("step_seconds", "measured") and one.point in known else one
        for one in found
    ]
    return judged, times


def timed(one: Difference, repeat: Repeat) -> Difference:
    """The difference of a time as the processes of both runs judge it."""
    told = repeat.outcome in ("slower", "faster")
    return replace(one, told_apart=told, relative_fraction=repeat.relative_fraction, floor_fraction=repeat.floor_fraction)


def is_time(row: Row) -> bool:
    """Whether it is a measured step time."""
    return row.metric == "step_seconds" and row.source == "measured" and row.value is not None


def drifted(times: Repeats | None, limit: float | None) -> str:
    """Why the gate does not hold for the run as a whole."""
    if times is None or limit is None or not times.drifted or times.drift_fraction <= limit:
        return ""
    rounds = percent(times.drift_floor_fraction or 0.0)
    grew = f"the steps of the whole run take {percent(times.drift_fraction)} longer, more than {percent(limit)}"
    return f"{grew} and than the rounds of one run differ by ({rounds})"


def apart(before: dict[tuple, Row], after: dict[tuple, Row], place: tuple) -> bool:
    """Whether the two times' intervals from the 10th to the 90th percentile do not overlap; True where there are none."""
    ends = [found.get((*place[:-1], name)) for found in (before, after) for name in ("step_seconds_p10", "step_seconds_p90")]
    values = [row.value for row in ends if row is not None and row.value is not None]
    if len(values) < len(ends):
        return True
    low, high, other_low, other_high = values
    return other_low > high or other_high < low


def grown(found: Sequence[Difference], limit: float | None) -> str:
    """Why the gate does not hold, if it was asked for: what grew most beyond the limit."""
    beyond = [one for one in found if limit is not None and growth(one) > limit and one.told_apart]
    if not beyond or limit is None:
        return ""
    worst = max(beyond, key=growth)
    return f"{worst.metric} of {worst.name} on {worst.target} ({worst.source}) grew by {percent(growth(worst))}, more than {percent(limit)}"


def growth(one: Difference) -> float:
    """By what fraction it grew; of a measured time, beyond what the whole run did."""
    return one.fraction if one.relative_fraction is None else one.relative_fraction
