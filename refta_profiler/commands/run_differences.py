"""The differences of two runs as data: every compared metric of the same points, which of them can be told apart, and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    "communicated_bytes",
    "trainable_parameters",
    "step_flops",
    "step_seconds",
    "setup_seconds",
)
MISSING = "missing"  # in a status's place, of a point that the second run has no row of


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


@dataclass(frozen=True)
class Lost:
    """One metric of one point that the first run has a number of and the second has none; `status` and `note` are the second's reason."""

    point: str
    name: str
    target: str
    source: str
    metric: str
    first: float
    status: str
    note: str
    second: None = None  # as in a Difference, beside which it stands
    fraction: None = None

    @property
    def reason(self) -> str:
        """'oom: out of memory'."""
        return f"{self.status}: {self.note}" if self.note else self.status


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
        found.append(Difference(row.point, name_of(row), row.target, row.source, row.metric, row.value, other.value, fraction, told))
    return sorted(found, key=lambda one: -abs(one.fraction))


def name_of(row: Row) -> str:
    """'lora, batch 8 of 128, checkpointing'."""
    parts = [f"{row.label}, batch {row.batch}" + (f" of {row.seq}" if row.seq else ""), "checkpointing" if row.checkpointing else ""]
    return ", ".join(part for part in [*parts, parallel.words(row.parallel)] if part)


def losses(first: Sequence[Row], second: Sequence[Row]) -> list[Lost]:
    """Every compared metric that the first run has a number of and the second has none of, in the first one's order."""
    after = {row.cell: row for row in second if row.metric in COMPARED}
    failures: dict[tuple, Row] = {}  # a point that failed has rows of a few metrics alone, whose reason is that of all
    for row in after.values():
        if row.value is None:
            failures.setdefault(row.cell[:-1], row)
    found = []
    for row in first:
        other = after.get(row.cell)
        if row.metric not in COMPARED or row.value is None or (other is not None and other.value is not None):
            continue
        why = other or failures.get(row.cell[:-1])
        status, note = (why.status, why.note) if why else (MISSING, "")
        found.append(Lost(row.point, name_of(row), row.target, row.source, row.metric, row.value, status, note))
    return found


def by_point(found: Sequence[Lost]) -> list[list[Lost]]:
    """What was lost, a point, device, source and reason at a time: one that ran out of memory has lost several numbers at once."""
    groups: dict[tuple[str, ...], list[Lost]] = {}
    for one in found:
        groups.setdefault((one.name, one.target, one.source, one.reason), []).append(one)
    return list(groups.values())


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


def apart(before: Mapping[tuple, Row], after: Mapping[tuple, Row], place: tuple) -> bool:
    """Whether the two times' intervals from the 10th to the 90th percentile do not overlap; True where there are none.

    False where either run says that it gives no noise floor: its times are not judged, however far apart.
    """
    if not judged(before, after, place):
        return False
    ends = [found.get((*place[:-1], name)) for found in (before, after) for name in ("step_seconds_p10", "step_seconds_p90")]
    values = [row.value for row in ends if row is not None and row.value is not None]
    if len(values) < len(ends):
        return True
    low, high, other_low, other_high = values
    return other_low > high or other_high < low


def judged(before: Mapping[tuple, Row], after: Mapping[tuple, Row], place: tuple) -> bool:
    """Whether neither run says of the time there that it gives no noise floor."""
    floors = [found.get((*place[:-1], "noise_fraction")) for found in (before, after)]
    return not any(row is not None and row.value is None for row in floors)


def not_judged(first: Sequence[Row], second: Sequence[Row]) -> bool:
    """Whether some measured step time that both runs have is not judged, for want of a noise floor."""
    before, after = ({row.cell: row for row in rows} for rows in (first, second))
    return any(is_time(row) and place in after and not judged(before, after, place) for place, row in before.items())


def gone(found: Sequence[Lost], limit: float | None) -> str:
    """Why the gate does not hold, if it was asked for: what has no number any more, which cannot be said to have stayed within it."""
    if not found or limit is None:
        return ""
    one, others = found[0], len(by_point(found)) - 1
    more = f", and so {others} more" if others else ""
    return f"{one.metric} of {one.name} on {one.target} ({one.source}) has no number any more ({one.reason}){more}"


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
