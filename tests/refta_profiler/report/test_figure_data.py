"""A figure's numbers as CSV: everything that is drawn is in it."""

import csv
import io
from urllib.parse import unquote

from refta_profiler.report.figure_data import address, to_csv
from refta_profiler.report.parts import Areas, Bars, Figure, Map, Panel, Series


def read(figure):
    return list(csv.DictReader(io.StringIO(to_csv(figure))))


def test_lines_marks_intervals_and_limits():
    series = [Series("a", [(1, 2.5), (2, 1 / 3)], True, [(2, 3), (0, 1)]), Series("a", [(2, 0.5)], False)]
    panel = Panel('it, "quoted"', "batch", "GiB", series, limits=[(79.0, "memory")])
    rows = read(Figure("f", "c", "c", [panel]))
    assert [row["kind"] for row in rows] == ["line", "line", "mark", "limit"]
    assert rows[0] == {"panel": 'it, "quoted"', "name": "a", "kind": "line", "x": "1", "y": "2.5", "low": "2", "high": "3"}
    assert float(rows[1]["y"]) == float(f"{1 / 3:.12g}")
    assert (rows[3]["name"], rows[3]["y"]) == ("memory", "79")


def test_bars_and_maps():
    bars = Bars("b", "GiB", ["x", "y"], {"weights": [1.0, 2.0], "batch": [3.0, 4.0]})
    mapped = Map("m", "batch", "rank", [(1, 2, 3, 4, "shared")], [(5, 6, "slices", True)])
    rows = read(Figure("f", "c", "c", [bars, mapped]))
    assert [(row["name"], row["kind"], row["x"]) for row in rows[:4]] == [
        ("x", "weights", "1"),
        ("y", "weights", "2"),
        ("x", "batch", "3"),
        ("y", "batch", "4"),
    ]
    assert [(row["kind"], row["x"], row["high"]) for row in rows[4:]] == [("region", "1", "4"), ("measured", "5", "")]


def test_areas_with_their_phases_and_their_peak():
    areas = Areas(
        "t", "ms", "MiB", [0.0, 5.0], {"weights": [2.0, 2.0], "rebuilt": [0.0, 3.0]}, (0, 6), [(4.0, "forward")], (5.0, 5.0, "top")
    )
    rows = read(Figure("f", "c", "c", [areas]))
    assert [(row["name"], row["kind"], row["x"], row["y"]) for row in rows] == [
        ("weights", "area", "0", "2"),
        ("weights", "area", "5", "2"),
        ("rebuilt", "area", "0", "0"),
        ("rebuilt", "area", "5", "3"),
        ("forward", "end", "4", ""),
        ("top", "peak", "5", "5"),
    ]


def test_every_point_of_a_report_is_in_its_data(document):
    for figure in document.figures():
        points = sum(len(series.points) for panel in figure.panels if isinstance(panel, Panel) for series in panel.series)
        assert len(read(figure)) >= points


def test_the_address_is_one_and_holds_no_markup(document):
    for figure in document.figures():
        link = address(figure)
        assert not set("<>\"' \n") & set(link)
        assert unquote(link).removeprefix("data:text/csv;charset=utf-8,") == to_csv(figure)
