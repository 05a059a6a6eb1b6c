"""Panels drawn."""

import re
from xml.etree import ElementTree

import pytest

from refta_profiler.report.figures import shorten, svg_text, to_svg
from refta_profiler.report.palette import COLOURS, style
from refta_profiler.report.parts import Areas, Bars, Map, Panel, Series

PANEL = Panel(
    "a <title>", "batch", "GiB", [Series("a", [(1, 2.0), (2, 4.0)]), Series("a", [(1, 2.0)], joined=False)], limits=[(3, "limit")]
)


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_text_stays_text_and_is_escaped():
    assert "a <title>" in texts(to_svg(PANEL, {"a": 0}, prefix="x"))


def test_numbers_that_are_read_keep_their_digits():
    """0.125, 0.0625 and 0.0313 on an axis of powers of two, and a bar of 0.0032 s; coordinates have two decimals."""
    chart = Panel("t", "batch", "GiB", [Series("a", [(1, 0.03), (2, 0.5)])], y_scale="log")
    svg = to_svg(chart, {"a": 0}, prefix="x")
    assert {"0.0625", "0.125", "0.25"} <= set(texts(svg))
    assert not re.findall(r"\d\.\d{3}", re.sub(r">[^<]*<", "><", svg))
    assert "0.0032" in texts(to_svg(Bars("t", "s", ["a"], {"step": [0.0032]}), {"a": 0}, prefix="x"))


def test_two_figures_share_no_id():
    def ids(prefix):
        return {element.get("id") for element in ElementTree.fromstring(to_svg(PANEL, {"a": 0}, prefix=prefix)).iter() if element.get("id")}

    assert ids("first") and not ids("first") & ids("second")


def test_it_is_drawn_the_same_twice():
    assert svg_text(PANEL, {"a": 0}) == svg_text(PANEL, {"a": 0})


@pytest.mark.parametrize("scale", ["linear", "log", "percent"])
@pytest.mark.parametrize("points", [[(1, 0.0)], [(4, -3.0), (8, 80.0)], [(1, 1e-9), (128, 1e9)]])
def test_any_numbers_can_be_drawn(scale, points):
    panel = Panel("t", "batch", "y", [Series("a", points)], y_scale=scale, bands=[(-1, 1, "the same"), (5, 100, "pays off")])
    assert "<svg" in svg_text(panel, {"a": 0})


def test_bars_with_nothing_in_them_can_be_drawn():
    assert "<svg" in svg_text(Bars("t", "GiB", ["a", "b"], {"x": [0.0, 0.0]}), {})


def test_long_and_strange_names_are_shortened():
    assert len(shorten("x" * 10_000)) == 30
    assert shorten("a\x00b\u202ec") == "a b c"
    assert "$x_1$" in texts(svg_text(Bars("t", "s", ["$x_1$"], {"step": [1.0]}, [(0.9, 1.2)]), {"$x_1$": 1}))


def test_styles_differ_well_past_the_colours():
    looks = [style(index) for index in range(3 * len(COLOURS))]
    assert len({(look.light, look.marker, look.dash) for look in looks}) == len(looks)
    assert len({look.light for look in looks[: len(COLOURS)]}) == len(COLOURS)
    assert len({look.marker for look in looks[: len(COLOURS)]}) == len(COLOURS)


def test_a_map_names_its_regions_and_marks_its_points():
    regions = [(1, 16, 1, 8, "one"), (16, 1024, 1, 8, "two <b>"), (1, 2, 8, 64, "narrow"), (2, 1024, 8, 64, "two <b>")]
    chart = Map("t", "batch", "rank", regions, [(4, 8, "one", True), (64, 8, "two <b>", False)])
    found = texts(svg_text(chart, {"one": 0, "two <b>": 1, "narrow": 2}))
    assert "one" in found and "two <b>" in found and "narrow" not in found  # no room for it: the legend has it
    assert chart.names == ["one", "two <b>", "narrow"]


AREAS = Areas(
    "refta/shared",
    "milliseconds",
    "MiB",
    [0.0, 5.0, 9.0, 10.0],
    {"frozen weights": [2.0, 2.0, 2.0, 2.0], "rebuilt weights": [0.0, 3.0, 1.0, 0.0]},
    (0.0, 6.0),
    [(4.0, "forward"), (9.5, "backward"), (10.0, "optimizer")],
    (5.0, 5.0, "peak 5 MiB"),
)


def test_areas_name_their_phases_and_their_peak():
    found = texts(to_svg(AREAS, {}, prefix="x"))
    assert {"forward", "backward", "peak 5 MiB", "refta/shared"} <= set(found)
    assert "optimizer" not in found  # too narrow for a name


def test_areas_take_the_categories_colours_and_few_digits():
    svg = to_svg(AREAS, {}, prefix="x")
    assert "var(--k0)" in svg and "var(--k6)" in svg
    assert not re.search(r' d="[^"]*\.\d{3}', svg)


def test_areas_of_one_moment_can_be_drawn():
    assert "<svg" in svg_text(Areas("t", "ms", "B", [0.0], {"batch": [0.0]}, (0.0, 1.0)), {})
