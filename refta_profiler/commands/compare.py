"""What changed between runs of one scenario? The differences of every metric of the same points, with intervals where there are some.

Refused where device, versions or scenario differ, which would be compared instead, unless --anyway. With --tolerance, exit code 4 where a
metric is larger in a later run by more than that; a step time only where its processes tell it from the machine's noise at 95%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from refta_profiler.commands.answer import Answer, table
from refta_profiler.commands.options import JsonOption
from refta_profiler.commands.validate import percent, share
from refta_profiler.errors import ScenarioError
from refta_profiler.repeats import Repeat, Repeats, repeats
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.units import format_bytes, format_seconds

COMPARED = (
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "static_bytes",
    "trainable_parameters",
    "step_flops",
    "step_seconds",
    "setup_seconds",
)
SHOWN = 12  # of the largest differences


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


def command(
    runs: Annotated[list[Path], typer.Argument(help="two run folders or more; each is held against the first", metavar="RUN RUN…")],
    anyway: Annotated[bool, typer.Option("--anyway", help="compare runs of different devices, versions or scenarios")] = False,
    tolerance: Annotated[str | None, typer.Option(help="e.g. 1%: exit code 4 where something grew by more")] = None,
    json_: JsonOption = False,
) -> Answer:
    """The differences of the later runs from the first."""
    if len(runs) < 2:
        raise ScenarioError("compare takes two RUN folders or more")
    limit = None if tolerance is None else share(tolerance, "--tolerance")
    first, *others = [RunFolder.open(path) for path in runs]
    data: list[dict[str, Any]] = []
    texts: list[str] = []
    failed = ""
    for path, other in zip(runs[1:], others, strict=True):
        reasons = unlike(first, other)
        if reasons and not anyway:
            raise ScenarioError(
                f"{runs[0]} and {path} differ in more than their results: {'; '.join(reasons)}; --anyway compares them still"
            )
        found, times = with_times(first, other, differences(first.rows(), other.rows()))
        if not found:
            raise ScenarioError(f"{runs[0]} and {path} have no point with the same numbers in both")
        data += [{"run": str(path), **asdict(one)} for one in found]
        texts.append("\n".join([as_text(str(runs[0]), str(path), found, reasons), *time_lines(times)]))
        failed = failed or grown(found, limit) or drifted(times, limit)
    return Answer(data, "\n\n".join(texts), failed)


def unlike(first: RunFolder, second: RunFolder) -> list[str]:
    """In what two runs differ before any result: device, versions, scenario."""
    one, other = first.environment(), second.environment()
    found = []
    if one.get("device") != other.get("device"):
        found.append(f"the device ({one.get('device')} and {other.get('device')})")
    versions, others = one.get("versions") or {}, other.get("versions") or {}
    changed = [name for name in sorted({*versions, *others}) if versions.get(name) != others.get(name)]
    found += [f"the version of {name} ({versions.get(name)} and {others.get(name)})" for name in changed]
    if first.scenario_text() != second.scenario_text():
        found.append("the scenario")
    return found


def differences(first: Sequence[Row], second: Sequence[Row]) -> list[Difference]:
    """Every compared metric that both runs have of a point, from the same source for the same target; the largest change first."""
    before = {key(row): row for row in first}
    after = {key(row): row for row in second}
    found = []
    for place, row in before.items():
        other = after.get(place)
        if row.metric not in COMPARED or other is None or row.value is None or other.value is None:
            continue
        fraction = other.value / row.value - 1 if row.value else float(other.value != 0)
        timing = row.source == "measured" and row.metric in ("step_seconds", "setup_seconds")
        told = not timing or (row.metric == "step_seconds" and apart(before, after, place))  # a set-up is timed too seldom to be judged
        name = f"{row.label}, batch {row.batch}" + (f" of {row.seq}" if row.seq else "") + (", checkpointing" if row.checkpointing else "")
        found.append(Difference(row.point, name, row.target, row.source, row.metric, row.value, other.value, fraction, told))
    return sorted(found, key=lambda one: -abs(one.fraction))


def with_times(first: RunFolder, second: RunFolder, found: Sequence[Difference]) -> tuple[list[Difference], Repeats | None]:
    """The differences, those of measured times judged by the runs' processes where these were kept; and what these say of the times."""
    before, after = ({key(row): row for row in run.rows() if is_time(row)} for run in (first, second))
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


def time_lines(times: Repeats | None) -> list[str]:
    """What the runs' processes say of measured times: same, slower or faster, and what the machine did meanwhile."""
    if times is None:
        return []
    counts = {word: sum(one.outcome == word for one in times.points) for word in ("same", "slower", "faster", "unknown")}
    if counts["unknown"]:
        return ["Measured times: points were timed in one process, so that no noise is known and none is told apart (measure.repeats: 2)."]
    floors = [one.floor_fraction or 0.0 for one in times.points]
    widths = percent(min(floors)) if percent(min(floors)) == percent(max(floors)) else f"{percent(min(floors))} to {percent(max(floors))}"
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    first, second = times.processes
    lines = [
        f"Measured times of {len(times.points)} points, in {first} and {second} processes each; at 95% for all of them together: {words}.",
        f"  A point must differ by more than {widths} from what the whole run differs by ({signed(times.drift_fraction)}).",
    ]
    if times.drift_floor_fraction is not None:
        beyond = "more than" if times.drifted else "within"
        lines.append(f"  That is {beyond} what the rounds of one run differ by ({percent(times.drift_floor_fraction)}).")
    return lines


def key(row: Row) -> tuple:
    """What makes two runs' rows the same thing, whatever else of their scenarios differs."""
    return row.model, row.label, row.batch, row.seq, row.precision, row.checkpointing, row.target, row.source, row.metric


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


def as_text(first: str, second: str, found: Sequence[Difference], reasons: Sequence[str]) -> str:
    """A line a metric, and the largest differences."""
    lines = [f"{second} against {first}"] + ([f"They also differ in {'; '.join(reasons)}."] if reasons else [])
    rows = [("metric", "source", "points", "the same", "least", "most")]
    for metric, source in dict.fromkeys((one.metric, one.source) for one in found):
        inside = [one for one in found if (one.metric, one.source) == (metric, source)]
        same = sum(one.first == one.second or not one.told_apart for one in inside)
        fractions = [one.fraction for one in inside]
        rows.append((metric, source, str(len(inside)), str(same), signed(min(fractions)), signed(max(fractions))))
    changed = [one for one in found if one.first != one.second and one.told_apart][:SHOWN]
    if not changed:
        return "\n".join([*lines, table(rows, indent="  "), "No number differs that can be told apart."])
    largest = [("point", "metric", "on", "first", "second", "difference")]
    for one in changed:
        before, after = shown(one.metric, one.first), shown(one.metric, one.second)
        largest.append((one.name, f"{one.metric} ({one.source})", one.target, before, after, signed(one.fraction)))
    return "\n".join([*lines, table(rows, indent="  "), "The largest differences:", table(largest, indent="  ")])


def signed(fraction: float) -> str:
    """'+1.2%', '-3%' or '0%'."""
    return f"{'+' if fraction > 0 else '-' if fraction < 0 else ''}{percent(abs(fraction))}"


def shown(metric: str, value: float) -> str:
    """The value in its unit."""
    unit = METRICS[metric].unit
    return format_bytes(value) if unit == "B" else format_seconds(value) if unit == "s" else f"{value:,.6g}"
