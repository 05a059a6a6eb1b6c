"""The differences of runs as a page: what changed in words, then how numbers of the first run stand to the others', then all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refta_profiler.commands.run_differences import Difference, Lost, by_point
from refta_profiler.report.parts import Card, Cell, Column, Document, Figure, Panel, Section, Series, Table, Text
from refta_profiler.report.record import facts
from refta_profiler.report.tables import ABSENT, bytes_cell, count_cell, difference_cell, gigaflop_cell, seconds_cell, text_cell
from refta_profiler.results import METRICS
from refta_profiler.run_folder import RunFolder
from refta_profiler.units import format_percent
from refta_profiler.whole_files import write_whole

CELLS = {"B": bytes_cell, "s": seconds_cell, "FLOP": gigaflop_cell, "count": count_cell}
UNITS = {"B": "MiB", "FLOP": "GFLOP"}
DRAWN = {"peak_allocated_bytes": (2**30, "peak memory (GiB)"), "step_seconds": (1e-3, "step time (ms)")}


@dataclass(frozen=True)
class Compared:
    """A later run, its differences from the first, and the numbers that it has no more.

    `reasons` are what else differs (device, versions, scenario), `gate` is why it fails.
    """

    path: Path
    run: RunFolder
    found: Sequence[Difference]
    reasons: Sequence[str]
    lost: Sequence[Lost] = ()
    gate: str = ""

    @property
    def changed(self) -> list[Difference]:
        """The differences that can be told apart, the largest first."""
        return sorted((one for one in self.found if one.first != one.second and one.told_apart), key=lambda one: -abs(one.fraction))


def write_page(page: Path, first: tuple[Path, RunFolder], compared: Sequence[Compared]) -> Path:
    """The page's path."""
    from refta_profiler.report.writers.html import render

    page.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(page, render(document(first, compared)))


def document(first: tuple[Path, RunFolder], compared: Sequence[Compared]) -> Document:
    """The page as data."""
    path, run = first
    sections = [run_section(f"run-{number}", str(path), one) for number, one in enumerate(compared, start=1)]
    sections.append(environments_section([(path, run), *((one.path, one.run) for one in compared)]))
    cards = [run_card(f"difference-{number}", one) for number, one in enumerate(compared, start=1)]
    names = dict.fromkeys(
        series.name
        for section in sections
        for block in section.blocks
        if isinstance(block, Figure)
        for panel in block.panels
        if isinstance(panel, Panel)
        for series in panel.series
    )
    title = f"{', '.join(str(one.path) for one in compared)} against {path}"
    facts = [("first run", str(path)), ("device", str(run.environment().get("device") or "")), ("compared with it", str(len(compared)))]
    return Document(title, facts, cards, sections, {name: number for number, name in enumerate(names)}, question="what changed?")


def run_card(key: str, one: Compared) -> Card:
    """What changed, first of all."""
    changed = one.changed
    more, less = [d for d in changed if d.fraction > 0], [d for d in changed if d.fraction < 0]
    words, tone = ("numbers missing", "costs") if one.lost else outcome(len(more), len(less))
    lead = f"{len(changed)} of {len(one.found)} numbers differ and can be told apart: {len(more)} are larger, {len(less)} smaller."
    lines = [(f"The gate does not hold: {one.gate}.", "")] if one.gate else []
    lines += [(lead, " ".join(largest_words(found) for found in (more, less) if found))]
    lines += [(lost_words(one.lost), "They stand in a table of their own.")] if one.lost else []
    lines += [(f"The runs also differ in {'; '.join(one.reasons)}.", "What is compared may be that.")] if one.reasons else []
    return Card(key, f"Difference: {one.path.name}", "Are the later run's numbers other than the first's?", words, tone, lines)


def lost_words(lost: Sequence[Lost]) -> str:
    """'6 numbers of the first run are not in this one, of 2 points: `lora, batch 8` on cpu (oom: out of memory), …'."""
    points = [f"`{found[0].name}` on {found[0].target} ({found[0].reason})" for found in by_point(lost)]
    named = ", ".join([*points[:3], *(["…"] if len(points) > 3 else [])])
    return f"{len(lost)} numbers of the first run are not in this one, of {len(points)} points: {named}."


def outcome(more: int, less: int) -> tuple[str, str]:
    """The outcome in two words, and its tone."""
    if more and less:
        return "larger and smaller", "mixed"
    return ("larger", "costs") if more else ("smaller", "pays") if less else ("no difference", "same")


def largest_words(found: Sequence[Difference]) -> str:
    """'The most: peak_allocated_bytes of lora, batch 8 on cpu, 3% more (measured).'"""
    most = found[0]
    side = "more" if most.fraction > 0 else "less"
    return f"The most {side}: `{most.metric}` of `{most.name}` on {most.target}, {format_percent(abs(most.fraction))} ({most.source})."


def run_section(key: str, first: str, one: Compared) -> Section:
    """One run against the first: in words, drawn, by metric, and every number."""
    text = (
        "Marks on the line did not change. A time differs where the processes of both runs tell it from the machine's noise at 95%; of "
        "runs that kept none of these, where percentiles lie apart; times of one process are not judged."
    )
    blocks = [Text(text), *scatter(key, first, one), *lost_table(key, one), summary_table(key, one), all_table(key, one)]
    return Section(key, f"{one.path} against {first}", blocks)


def scatter(key: str, first: str, one: Compared) -> list[Figure]:
    """The second run's numbers against the first's, a panel for peaks and one for times."""
    panels = []
    for metric, (unit, words) in DRAWN.items():
        marks: dict[str, list[tuple[float, float]]] = {}
        for found in one.found:
            if found.metric == metric:
                marks.setdefault(f"{found.source}, {found.target}", []).append((found.first / unit, found.second / unit))
        series = [Series(name, sorted(points), joined=False) for name, points in marks.items()]
        panels += [Panel(words, "first run", "this run", series, x_scale="linear", diagonal=True)] if series else []
    worst = max((abs(found.fraction) for found in one.changed if found.metric in DRAWN), default=0.0)
    apart = f"at most {format_percent(worst)} apart, of what can be told apart"
    caption = f"Every allocated peak and step time of {one.path.name} against {first}: {apart}."
    return [Figure(f"{key}-scatter", caption, caption, panels)] if panels else []


def summary_table(key: str, one: Compared) -> Table:
    """A row a metric, source and device."""
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for found in one.found:
        groups.setdefault((found.metric, found.source, found.target), []).append(found)
    columns = [Column("metric"), Column("source"), Column("device"), Column("numbers", "", "numbers", True)]
    columns += [Column("told apart", "", "told_apart", True), Column("least", "", "least", True), Column("most", "", "most", True)]
    rows = []
    for place, members in groups.items():
        fractions = [found.fraction for found in members]
        told = sum(found.first != found.second and found.told_apart for found in members)
        cells = [count_cell(len(members)), count_cell(told), difference_cell(min(fractions)), difference_cell(max(fractions))]
        rows.append([*(text_cell(text) for text in place), *cells])
    return Table(f"{key}-metrics", "Differences from the first run by metric, as fractions of the first.", columns, rows)


def lost_table(key: str, one: Compared) -> list[Table]:
    """A row a number that the first run has and this one has not, with the reason."""
    columns = [Column("point"), Column("metric"), Column("source"), Column("device"), Column("first", "", "first", True), Column("why")]
    rows = [
        [
            *(text_cell(text) for text in (lost.name, lost.metric, lost.source, lost.target)),
            number_cell(lost.metric, lost.first),
            Cell(lost.reason, lost.reason, "costs" if lost.status in ("oom", "error") else "unknown"),
        ]
        for lost in one.lost
    ]
    return [Table(f"{key}-lost", "Numbers of the first run that this one has not.", columns, rows)] if rows else []


def all_table(key: str, one: Compared) -> Table:
    """Every number, the largest change first."""
    columns = [Column("point"), Column("metric"), Column("source"), Column("device"), Column("first", "", "first", True)]
    columns += [Column("this run", "", "second", True), Column("difference", "", "difference", True), Column("told apart")]
    rows = []
    for found in sorted(one.found, key=lambda found: -abs(found.fraction)):
        tone = "" if not found.told_apart or found.first == found.second else "costs" if found.fraction > 0 else "pays"
        told = text_cell("yes" if tone else "no")
        values = [number_cell(found.metric, value) for value in (found.first, found.second)]
        texts = [text_cell(text) for text in (found.name, found.metric, found.source, found.target)]
        rows.append([*texts, *values, difference_cell(found.fraction, tone), told])
    return Table(f"{key}-all", "Every number of both runs, the largest change first.", columns, rows, folded=True)


def number_cell(metric: str, value: float) -> Cell:
    """The number with its unit, since one column holds several."""
    unit = METRICS[metric].unit
    cell = CELLS[unit](value)
    return Cell(f"{cell.text} {UNITS[unit]}" if unit in UNITS else cell.text, value)


def environments_section(runs: Sequence[tuple[Path, RunFolder]]) -> Section:
    """What the runs ran on and with, side by side, what differs first."""
    found = [{name: str(value) for name, value in facts(run.environment())} for _, run in runs]
    names = list(dict.fromkeys(name for values in found for name in values))
    unlike = [name for name in names if len({values.get(name) for values in found}) > 1]
    ordered = [*unlike, *(name for name in names if name not in unlike)]
    rows = [[text_cell(name), *(text_cell(values[name]) if name in values else ABSENT for values in found)] for name in ordered]
    columns = [Column("what"), *(Column(str(path)) for path, _ in runs)]
    stands = f"{len(unlike)} of {len(names)} differ, and stand first" if unlike else "nothing differs"
    caption = f"What the runs ran on and with: {stands}."
    return Section("environments", "Environments", [Table("environments", caption, columns, rows)])
