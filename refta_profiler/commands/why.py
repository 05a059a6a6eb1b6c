"""Why do two points of a run differ? Their peaks' and step times' difference as signed causes that sum to it.

RUN is a run's folder, POINT an id of its results.csv, or a part of one that no other has (`shared-b8-fp32`, without the hash, will do).
The difference is the second point's less the first's, from one source for both that knows the parts: measured, otherwise the dry run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from refta_profiler.causes import PEAK, PEAK_PARTS, REST, STEP, STEP_PARTS, Cause, causes
from refta_profiler.commands.answer import Answer, signed_bytes, table
from refta_profiler.commands.options import JsonOption
from refta_profiler.errors import ScenarioError
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.suggest import closest
from refta_profiler.units import format_bytes, format_seconds

SHOWN = 12  # ids that a message lists
WHOLES = {PEAK: PEAK_PARTS, STEP: STEP_PARTS}
TITLES = {PEAK: "peak memory", STEP: "step time"}
Values = dict[str, float]


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder", metavar="RUN")],
    first: Annotated[str, typer.Argument(help="a point's id", metavar="POINT")],
    second: Annotated[str, typer.Argument(help="another's", metavar="POINT")],
    json_: JsonOption = False,
) -> Answer:
    """The causes of the difference of two points."""
    rows = RunFolder.open(run).rows()
    ids = list(dict.fromkeys(row.point for row in rows))
    one, other = (point_of(ids, given, run) for given in (first, second))
    return answer(rows, one, other)


def point_of(ids: Sequence[str], given: str, run: Path) -> str:
    """The id that was meant; ScenarioError that names those it could be."""
    ways = (lambda one: one == given, lambda one: one.rsplit("-", 1)[0].endswith(given), lambda one: given in one)
    found = next((matching for way in ways if (matching := [one for one in ids if way(one)])), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise ScenarioError(f"'{given}' is a part of {len(found)} points of {run}: {_some(found)}")
    near = closest(given, ids)
    raise ScenarioError(f"{run} has no point '{given}'; {f'did you mean {near}? ' if near else ''}it has {_some(ids)}")


def _some(ids: Sequence[str]) -> str:
    """The ids, the first of them where they are many."""
    more = f" and {len(ids) - SHOWN} more (results.csv)" if len(ids) > SHOWN else ""
    return ", ".join(ids[:SHOWN]) + more or "none"


def answer(rows: Sequence[Row], first: str, second: str) -> Answer:
    """Both differences, each with its causes; ScenarioError where neither is known of both points."""
    data: list[dict[str, Any]] = []
    texts: list[str] = []
    for whole, parts in WHOLES.items():
        place = shared_place(rows, first, second, whole)
        if place is None:
            texts.append(f"{TITLES[whole]}: not known of both from one source and device")
            continue
        one, other = (values_of(rows, point, place) for point in (first, second))
        found = causes(one, other, whole, parts)
        data += entries(whole, place, (first, second), (one, other), found)
        texts.append(words(whole, place, one, other, found))
    if not data:
        raise ScenarioError(f"{first} and {second}: neither peak memory nor step time is known of both; were both points run?")
    return Answer(data, "\n\n".join([f"{second}\nless {first}", *texts]))


def shared_place(rows: Sequence[Row], first: str, second: str, whole: str) -> tuple[str, str] | None:
    """The source and target from which both points have the whole: one that knows its parts, measured before the dry run."""
    found: dict[tuple[str, str], list[set[str]]] = {}
    for point in (first, second):
        for place in dict.fromkeys((row.source, row.target) for row in rows if row.point == point):
            found.setdefault(place, []).append(set(values_of(rows, point, place)))
    both = {place: sets[0] & sets[1] for place, sets in found.items() if len(sets) > 1 and whole in sets[0] & sets[1]}
    return min(both, key=lambda place: (not both[place] & set(WHOLES[whole]), place[0] != "measured"), default=None)


def values_of(rows: Sequence[Row], point: str, place: tuple[str, str]) -> Values:
    """The point's numbers from that source on that target."""
    return {row.metric: row.value for row in rows if row.point == point and (row.source, row.target) == place and row.value is not None}


def entries(
    whole: str, place: tuple[str, str], points: tuple[str, str], values: tuple[Values, Values], found: Sequence[Cause]
) -> list[dict[str, Any]]:
    """The whole difference and its causes as JSON takes them."""
    unit = "B" if whole == PEAK else "s"
    same = {"source": place[0], "target": place[1], "unit": unit, "first": points[0], "second": points[1]}
    total = {"kind": "total", "metric": whole, "first_value": values[0][whole], "second_value": values[1][whole]}
    total |= {"difference": values[1][whole] - values[0][whole]}
    parts = [
        {"kind": "cause", "of": whole, "metric": one.metric or None, "name": one.name, "first_value": one.first, "second_value": one.second}
        | {"difference": one.difference}
        for one in found
    ]
    return [{**one, **same} for one in [total, *parts]]


def words(whole: str, place: tuple[str, str], one: Values, other: Values, found: Sequence[Cause]) -> str:
    """The difference and a line a cause."""
    form, sign = (format_bytes, signed_bytes) if whole == PEAK else (format_seconds, _signed_seconds)
    head = f"{TITLES[whole]} ({place[0]}, {place[1]}): {sign(other[whole] - one[whole])}, from {form(one[whole])} to {form(other[whole])}"
    if not found:
        return f"{head}; no part differs"
    rows = [["", "difference", "from", "to"]]
    rows += [
        [part.name, sign(part.difference), *("" if value is None else form(value) for value in (part.first, part.second))] for part in found
    ]
    return f"{head}\n{table(rows, indent='  ')}{_unattributed(whole, found)}"


def _unattributed(whole: str, found: Sequence[Cause]) -> str:
    if len(found) == 1 and found[0].name == REST:
        return (
            f"\n  (the {'categories at the peak' if whole == PEAK else 'phases of the step'} are not known of both points from this source)"
        )
    return ""


def _signed_seconds(seconds: float) -> str:
    return f"{'+' if seconds > 0 else '-' if seconds < 0 else ''}{format_seconds(abs(seconds))}"
