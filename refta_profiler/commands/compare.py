"""What changed between runs of one scenario? The differences of every metric of the same points, with intervals where there are some.

Refused where device, versions or scenario differ, which would be compared instead, unless --anyway. With --tolerance, exit code 4 where a
metric is larger in a later run by more than that; a step time only where the intervals (10th to 90th percentile) do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from refta_profiler.commands.answer import Answer, table
from refta_profiler.commands.compare_page import Compared, write_page
from refta_profiler.commands.options import JsonOption
from refta_profiler.commands.validate import percent, share
from refta_profiler.errors import ScenarioError
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


def command(
    runs: Annotated[list[Path], typer.Argument(help="two run folders or more; each is held against the first", metavar="RUN RUN…")],
    anyway: Annotated[bool, typer.Option("--anyway", help="compare runs of different devices, versions or scenarios")] = False,
    tolerance: Annotated[str | None, typer.Option(help="e.g. 1%: exit code 4 where something grew by more")] = None,
    html: Annotated[Path | None, typer.Option(help="write the differences as a page into this file")] = None,
    json_: JsonOption = False,
) -> Answer:
    """The differences of the later runs from the first."""
    if len(runs) < 2:
        raise ScenarioError("compare takes two RUN folders or more")
    limit = None if tolerance is None else share(tolerance, "--tolerance")
    first, *others = [RunFolder.open(path) for path in runs]
    data: list[dict[str, Any]] = []
    texts: list[str] = []
    compared: list[Compared] = []
    failed = ""
    for path, other in zip(runs[1:], others, strict=True):
        reasons = unlike(first, other)
        if reasons and not anyway:
            raise ScenarioError(
                f"{runs[0]} and {path} differ in more than their results: {'; '.join(reasons)}; --anyway compares them still"
            )
        found = differences(first.rows(), other.rows())
        if not found:
            raise ScenarioError(f"{runs[0]} and {path} have no point with the same numbers in both")
        data += [{"run": str(path), **asdict(one)} for one in found]
        texts.append(as_text(str(runs[0]), str(path), found, reasons))
        gate = grown(found, limit)
        failed = failed or gate
        compared.append(Compared(path, other, found, reasons, gate))
    if html is not None:
        texts.append(f"page: {write_page(html, (runs[0], first), compared)}")
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
        told = row.metric != "step_seconds" or row.source != "measured" or apart(before, after, place)
        name = f"{row.label}, batch {row.batch}" + (f" of {row.seq}" if row.seq else "") + (", checkpointing" if row.checkpointing else "")
        found.append(Difference(row.point, name, row.target, row.source, row.metric, row.value, other.value, fraction, told))
    return sorted(found, key=lambda one: -abs(one.fraction))


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
    beyond = [one for one in found if limit is not None and one.fraction > limit and one.told_apart]
    if not beyond or limit is None:
        return ""
    worst = max(beyond, key=lambda one: one.fraction)
    return (
        f"{worst.metric} of {worst.name} on {worst.target} ({worst.source}) grew by {percent(worst.fraction)}, more than {percent(limit)}"
    )


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
