"""The section on coverage: how many of the planned points have a number from each source, and what was left out of the numbers."""

from collections import Counter

from refta_profiler.report.material import Material
from refta_profiler.report.parts import Column, Section, Table
from refta_profiler.report.tables import count_cell, text_cell
from refta_profiler.results import STATUSES
from refta_profiler.units import format_count

NOT_COUNTED = "not counted: "
WORST_FIRST = ("error", "oom", "unsupported", "skipped", "ok")


def coverage_section(material: Material) -> Section | None:
    """The counts by source and device, and what was not counted."""
    planned = len(set(material.planned) | {row.point for row in material.rows})
    states: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in material.rows:
        states.setdefault((row.source, row.target), {}).setdefault(row.point, set()).add(row.status)
    if not states:
        return None
    columns = [Column("source"), Column("device"), Column("points", "", "points", True)]
    columns += [Column(status, "", status, True) for status in STATUSES] + [Column("not tried", "", "not_tried", True)]
    rows, whole = [], 0
    for (source, target), points in states.items():
        counts = Counter(next(status for status in WORST_FIRST if status in found) for found in points.values())
        whole += counts["ok"]
        cells = [count_cell(counts[status]) for status in STATUSES]
        rows.append([text_cell(source), text_cell(target), count_cell(planned), *cells, count_cell(planned - len(points))])
    caption = (
        f"How many of the {format_count(planned)} points have their numbers, by source: {format_count(whole)} of "
        f"{format_count(planned * len(states))} have all. A point with any number missing counts under the worst reason."
    )
    return Section("coverage", "Coverage", [Table("coverage", caption, columns, rows), *left_out(material)])


def left_out(material: Material) -> list[Table]:
    """What the rows' notes say was not counted, with the points that it concerns."""
    found: dict[str, set[str]] = {}
    for row in material.rows:
        for part in row.note.split("; "):
            if part.startswith(NOT_COUNTED):
                found.setdefault(part.removeprefix(NOT_COUNTED), set()).add(row.point)
    rows = [[text_cell(what), count_cell(len(points))] for what, points in found.items()]
    columns = [Column("not counted"), Column("points", "", "points", True)]
    return [Table("not-counted", "What was left out of numbers that are there.", columns, rows)] if rows else []
