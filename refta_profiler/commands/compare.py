"""What changed between runs of one scenario? The differences of every metric of the same points, with intervals where there are some.

Refused where device, versions or scenario differ, which would be compared instead, unless --anyway. With --tolerance, exit code 4 where a
metric is larger in a later run by more than that (a step time only where its processes tell it from the machine's noise at 95%), or has no
number there any more: a point that ran out of memory, failed, or was not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from refta_profiler.commands.answer import Answer, table
from refta_profiler.commands.compare_page import Compared, write_page
from refta_profiler.commands.options import JsonOption
from refta_profiler.commands.run_differences import (
    MISSING,
    Difference,
    Lost,
    by_point,
    differences,
    drifted,
    gone,
    grown,
    losses,
    not_judged,
    with_times,
)
from refta_profiler.commands.validate import percent, share
from refta_profiler.errors import ScenarioError
from refta_profiler.repeats import Repeats
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.units import format_bytes, format_seconds

SHOWN = 12  # of the largest differences
NO_NOISE = "points have no noise floor, as those timed in one process or of a run that was stopped: none is told apart"


def command(
    runs: Annotated[list[Path], typer.Argument(help="two run folders or more; each is held against the first", metavar="RUN RUN…")],
    anyway: Annotated[bool, typer.Option("--anyway", help="compare runs of different devices, versions or scenarios")] = False,
    tolerance: Annotated[str | None, typer.Option(help="e.g. 1%: exit code 4 where something grew by more, or is gone")] = None,
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
        before, after = first.rows(), other.rows()
        found, times = with_times(first, other, differences(before, after))
        lost = losses(before, after)
        if not found and all(one.status == MISSING for one in lost):
            raise ScenarioError(f"{runs[0]} and {path} have no point with the same numbers in both")
        data += [{"run": str(path), **asdict(one)} for one in [*found, *lost]]
        judgement = time_lines(times) or unjudged_lines(before, after)
        texts.append("\n".join([as_text(str(runs[0]), str(path), found, reasons), *lost_lines(lost), *judgement]))
        gate = gone(lost, limit) or grown(found, limit) or drifted(times, limit)
        failed = failed or gate
        compared.append(Compared(path, other, found, reasons, lost, gate))
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


def time_lines(times: Repeats | None) -> list[str]:
    """What the runs' processes say of measured times: same, slower or faster, and what the machine did meanwhile."""
    if times is None:
        return []
    counts = {word: sum(one.outcome == word for one in times.points) for word in ("same", "slower", "faster", "unknown")}
    if counts["unknown"]:
        advice = "measure.repeats: 2 or more; on a CPU measure.on_cpu.repeats"
        return [f"Measured times: {NO_NOISE} ({advice})."]
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


def unjudged_lines(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """That measured times are not judged, of runs that kept no processes: a loop of one's own is timed in the one that it is."""
    return [f"Measured times: {NO_NOISE}."] if not_judged(before, after) else []


def lost_lines(lost: Sequence[Lost]) -> list[str]:
    """What the later run has no number of any more, a line a point, with its reason."""
    if not lost:
        return []
    points = by_point(lost)
    rows = [("point", "on", "source", "numbers", "why")]
    rows += [(one[0].name, one[0].target, one[0].source, str(len(one)), one[0].reason) for one in points[:SHOWN]]
    more = [f"  and {len(points) - SHOWN} more"] if len(points) > SHOWN else []
    return ["Numbers of the first run that this one has not:", table(rows, indent="  "), *more]


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
