"""The numbers of a figure as CSV, as a link to them holds them."""

import csv
import io
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from refta_profiler.report.parts import Areas, Bars, Drawn, Figure, Panel

COLUMNS = ("panel", "name", "kind", "x", "y", "low", "high")


def to_csv(figure: Figure) -> str:
    """A row a point, part of a bar, region, limit, or moment of an area.

    low and high are its interval; a region goes from (x, y) to (low, high).
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([panel.title, *map(short, row)] for panel in figure.panels for row in rows(panel))
    return text.getvalue()


def address(figure: Figure) -> str:
    """The same as a data: URI."""
    return f"data:text/csv;charset=utf-8,{quote(to_csv(figure))}"


def short(value: object) -> object:
    """A number to twelve digits, which bytes in GiB need and nothing needs more of; anything else as it is."""
    return f"{value:.12g}" if isinstance(value, float) else value


def rows(panel: Drawn) -> Iterator[Sequence[object]]:
    """The rows of one panel, without its title."""
    if isinstance(panel, Panel):
        yield from line_rows(panel)
    elif isinstance(panel, Bars):
        yield from bar_rows(panel)
    elif isinstance(panel, Areas):
        yield from area_rows(panel)
    else:
        yield from ((name, "region", x, y, x_end, y_end) for x, x_end, y, y_end, name in panel.regions)
        yield from ((name, "measured" if measured else "predicted", x, y, "", "") for x, y, name, measured in panel.marks)


def line_rows(panel: Panel) -> Iterator[Sequence[object]]:
    """Points of lines and marks, then limits."""
    for series in panel.series:
        around = series.intervals or [("", "")] * len(series.points)
        for (x, y), (low, high) in zip(series.points, around, strict=True):
            yield series.name, "line" if series.joined else "mark", x, y, low, high
    yield from ((text, "limit", "", y, "", "") for y, text in panel.limits)


def area_rows(areas: Areas) -> Iterator[Sequence[object]]:
    """A row a moment and category, then the ends of the phases and the peak."""
    for category, values in areas.stacks.items():
        yield from ((category, "area", x, y, "", "") for x, y in zip(areas.x, values, strict=True))
    yield from ((name, "end", x, "", "", "") for x, name in areas.marks)
    if areas.peak:
        x, y, text = areas.peak
        yield text, "peak", x, y, "", ""


def bar_rows(bars: Bars) -> Iterator[Sequence[object]]:
    """A row a bar and category, the category as kind; the interval is that of the whole bar."""
    around = bars.intervals or [("", "")] * len(bars.names)
    for category, values in bars.stacks.items():
        for name, value, (low, high) in zip(bars.names, values, around, strict=True):
            yield name, category, value, "", low, high
