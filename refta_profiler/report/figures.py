"""Panels drawn: as SVG to set into a page, whose colours follow the page's, or as a matplotlib figure for a file."""

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from refta_profiler.report.areas import draw_areas
from refta_profiler.report.palette import CATEGORY_COLOURS, GRID, INK, PAGE, Style, Styles, category_index, colour_variables, style
from refta_profiler.report.parts import Areas, Bars, Drawn, Map, Panel, Series
from refta_profiler.units import significant

matplotlib.use("Agg")
WIDTH, HEIGHT, BAR = 4.8, 3.1, 0.3  # inches
LONGEST = 30
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "refta-profiler",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def drawing_settings() -> Iterator[None]:
    """Our settings, and no complaint about signs that the font has not: the page's own font draws them."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def smaller() -> float:
    """The size of what is written inside the axes, in points."""
    return matplotlib.rcParams["font.size"] - 1


def shorten(text: str, longest: int = LONGEST) -> str:
    """The text without control signs, cut in the middle where it is too long to stand in a figure."""
    clean = "".join(sign if unicodedata.category(sign)[0] != "C" else " " for sign in text)
    half = longest // 2
    return clean if len(clean) <= longest else f"{clean[:half]}…{clean[-half + 1 :]}"


def draw(panel: Drawn, styles: Styles) -> Drawing:
    """The panel as a matplotlib figure without a legend: the page has its own."""
    height = max(1.4, 0.9 + BAR * len(panel.names)) if isinstance(panel, Bars) else HEIGHT
    drawing = Drawing(figsize=(WIDTH, height), layout="constrained")
    axes = drawing.subplots()
    axes.set_title(shorten(panel.title, 70))
    draw_into(axes, panel, styles)
    return drawing


def draw_into(axes: Axes, panel: Drawn, styles: Styles) -> None:
    """The panel on those axes, without its title."""
    if isinstance(panel, Panel):
        draw_panel(axes, panel, styles)
    elif isinstance(panel, Bars):
        draw_bars(axes, panel, styles)
    elif isinstance(panel, Areas):
        draw_areas(axes, panel)
    else:
        draw_map(axes, panel, styles)


def draw_panel(axes: Axes, panel: Panel, styles: Styles) -> None:
    """Lines and marks over bands and limits."""
    axes.grid(True, axis="y")
    for series in panel.series:
        draw_series(
            axes,
            series,
            style(styles.get(series.name, 0)),
            joined_too=any(other.joined and other.name == series.name for other in panel.series),
        )
    scale(axes, panel)
    if panel.diagonal:
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for low, high, text in panel.bands:
        draw_band(axes, low, high, text)
    for y, text in panel.limits:
        axes.axhline(y, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            shorten(text), (0.01, y), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", fontsize=smaller()
        )
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(shorten(panel.y_label, 40))


def draw_series(axes: Axes, series: Series, look: Style, *, joined_too: bool) -> None:
    """One line with small open marks where it is predicted, filled marks where it is measured."""
    x, y = zip(*series.points, strict=True)
    if series.joined:
        dash: Any = (0, look.dash) if look.dash else "-"
        many = len(x) > 20
        marker = "None" if many else look.marker
        axes.plot(
            x,
            y,
            color=look.light,
            linestyle=dash,
            marker=marker,
            markerfacecolor=PAGE,
            label=shorten(series.name),
        )
    else:
        label = None if joined_too else shorten(series.name)
        axes.plot(
            x,
            y,
            color=look.light,
            linestyle="None",
            marker=look.marker,
            markersize=1.5 * matplotlib.rcParams["lines.markersize"],
            markeredgecolor=PAGE,
            markeredgewidth=0.8,
            label=label,
        )
    if series.intervals:
        below, above = ([abs(end - middle) for end, middle in zip(ends, y, strict=True)] for ends in zip(*series.intervals, strict=True))
        axes.errorbar(x, y, yerr=[below, above], fmt="none", color=look.light, ecolor=look.light, elinewidth=0.9, capsize=2.5)


def draw_band(axes: Axes, low: float, high: float, text: str) -> None:
    """A tinted band as far as it lies in sight, with what it means beside it."""
    bottom, top = axes.get_ylim()
    low, high = max(low, bottom), min(high, top)
    if low < high:
        axes.axhspan(low, high, facecolor=INK, alpha=0.06, linewidth=0)
        place = axes.transData.transform([(1, low), (1, high)])[:, 1].mean()
        middle = axes.transAxes.inverted().transform((0, place))[1]
        axes.annotate(text, (1.01, middle), xycoords="axes fraction", fontsize=smaller(), va="center")


def scale(axes: Axes, panel: Panel) -> None:
    """Scales and ticks: batches on a logarithmic axis with each batch as a tick, GiB on powers of two."""
    heights = [y for series in panel.series for _, y in series.points] or [1.0]
    if panel.x_scale == "batch":
        batch_axis(axes, sorted({x for series in panel.series for x, _ in series.points}))
    elif panel.x_scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if panel.y_scale == "log" and min(heights) > 0 and max(heights) > 6 * min(heights):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(plain))
    elif panel.y_scale == "percent":
        percent_axis(axes, min(heights), max(heights))


def percent_axis(axes: Axes, low: float, high: float) -> None:
    """An axis on which the thresholds at 1% and 5% are seen beside differences of tens of per cent."""
    axes.set_yscale("symlog", linthresh=5, linscale=1.2)
    axes.set_ylim(min(1.3 * low, -2), max(1.3 * high, 8))
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in PERCENT_TICKS if bottom <= tick <= top]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%".replace("-", "−")))


PERCENT_TICKS = (-100, -50, -20, -10, -5, -1, 0, 1, 5, 10, 20, 30, 50, 100)


def plain(value: float, _: Any = None) -> str:
    """A tick without an exponent: 1,000,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def batch_axis(axes: Axes, batches: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each batch, or at every second where they stand close."""
    axes.set_xscale("log", base=2)
    shown = batches if len(batches) <= 10 else batches[:: -(-len(batches) // 10)]
    axes.xaxis.set_major_locator(FixedLocator(list(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(plain))


def draw_bars(axes: Axes, bars: Bars, styles: Styles) -> None:
    """Stacked horizontal bars, the first name on top, with the total at the end; a bar that is not stacked has its method's colour."""
    places = range(len(bars.names))
    left = [0.0] * len(bars.names)
    for index, (category, values) in enumerate(bars.stacks.items()):
        stacked = CATEGORY_COLOURS[category_index(category, index) % len(CATEGORY_COLOURS)][0]
        colour = stacked if len(bars.stacks) > 1 else [style(styles.get(name, 0)).light for name in bars.names]
        axes.barh(places, values, left=left, height=0.72, color=colour, edgecolor=PAGE, linewidth=0.6, label=category)
        left = [before + value for before, value in zip(left, values, strict=True)]
    axes.set_yticks(list(places), [shorten(name) for name in bars.names])
    axes.invert_yaxis()
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(bars.x_label)
    ends = draw_intervals(axes, bars, left)
    for place, total, end in zip(places, left, ends, strict=True):
        axes.annotate(significant(total), (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=smaller())
    axes.set_xlim(0, max([*ends, 1e-12]) * 1.14)


def draw_intervals(axes: Axes, bars: Bars, totals: Sequence[float]) -> list[float]:
    """Whiskers where there are intervals; where each bar with its whisker ends."""
    if not bars.intervals:
        return list(totals)
    below = [max(total - low, 0.0) for total, (low, _) in zip(totals, bars.intervals, strict=True)]
    above = [max(high - total, 0.0) for total, (_, high) in zip(totals, bars.intervals, strict=True)]
    axes.errorbar(totals, range(len(totals)), xerr=[below, above], fmt="none", color=INK, ecolor=INK, elinewidth=1, capsize=3)
    return [total + more for total, more in zip(totals, above, strict=True)]


def draw_map(axes: Axes, panel: Map, styles: Styles) -> None:
    """Tinted regions, each with its name in its widest place, and a mark a point in the colour of what is least there."""
    for low, high, bottom, top, name in panel.regions:
        colour = style(styles.get(name, 0)).light
        axes.fill_between([low, high], bottom, top, facecolor=colour, alpha=0.22, linewidth=0)
    for x, y, name, measured in panel.marks:
        look = style(styles.get(name, 0))
        face = look.light if measured else PAGE
        axes.plot(
            [x],
            [y],
            color=look.light,
            marker=look.marker,
            markersize=1.33 * matplotlib.rcParams["lines.markersize"],
            markerfacecolor=face,
            linestyle="None",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlim(0.85 * min(one[0] for one in panel.regions), max(one[1] for one in panel.regions))
    axes.set_ylim(min(one[2] for one in panel.regions), max(one[3] for one in panel.regions))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_locator(NullLocator())
    for name in dict.fromkeys(region[4] for region in panel.regions):
        x, y, room = widest(panel, name)
        if room > WIDTH_OF_A_NAME:
            above = 1.5 * smaller() if on_a_mark(panel, y) else 0.0
            axes.annotate(
                shorten(name), (x, y), xytext=(0, above), textcoords="offset points", ha="center", va="center", fontsize=smaller()
            )
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(shorten(panel.y_label, 40))
    if panel.x_also:
        second_axis(axes, *panel.x_also)


def second_axis(axes: Axes, factor: float, label: str) -> None:
    """On top the same places in another unit."""

    def times(x: Any) -> Any:
        return x * factor

    def divided(x: Any) -> Any:
        return x / factor

    top = axes.secondary_xaxis("top", functions=(times, divided))
    top.xaxis.set_major_formatter(FuncFormatter(plain))
    top.xaxis.set_minor_formatter(NullFormatter())
    top.set_xlabel(label)
    top.spines["top"].set_visible(True)


WIDTH_OF_A_NAME = 0.25  # of the map


def widest(panel: Map, name: str) -> tuple[float, float, float]:
    """Where a name has most room: the middle of its widest stretch (the middle one of several), and its share of the map's width."""
    spans = sorted((one[3], one[0], one[1], one[2]) for one in panel.regions if one[4] == name)
    whole = math.log(max(one[1] for one in panel.regions) / min(one[0] for one in panel.regions))
    longest = max(math.log(high / low) for _, low, high, _ in spans)
    wide = [one for one in spans if math.log(one[2] / one[1]) > 0.8 * longest]
    top, low, high, bottom = wide[len(wide) // 2]
    return math.sqrt(low * high), math.sqrt(bottom * top), longest / whole


def on_a_mark(panel: Map, y: float) -> bool:
    """Whether a name at that height would be written over a mark."""
    whole = math.log(max(one[3] for one in panel.regions) / min(one[2] for one in panel.regions))
    return any(abs(math.log(y / mark[1])) < 0.06 * whole for mark in panel.marks)


def to_svg(panel: Drawn, styles: Styles, *, prefix: str) -> str:
    """The panel as SVG to stand in a page: no date, ids that no other figure has, and colours that follow the page's."""
    return for_page(svg_text(panel, styles), re.sub(r"[^A-Za-z0-9-]", "-", prefix))


def svg_text(panel: Drawn, styles: Styles) -> str:
    """The panel as an SVG file without a background."""
    text = io.StringIO()
    with drawing_settings():
        draw(panel, styles).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def for_page(text: str, prefix: str) -> str:
    """The SVG element alone, its ids under `prefix`, its stand-in colours replaced by the page's variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text)
    return page_colours(compact(text))


def compact(text: str) -> str:
    """The SVG without indentation, its coordinates to two decimals, of a point: half the size, and nobody sees it. What is read stays."""
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", two_decimals, tag[0]), text)
    return re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", text))


def two_decimals(found: re.Match[str]) -> str:
    """'12.3456' as '12.35', '3.0000' as '3'."""
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def page_colours(text: str) -> str:
    """The text with every stand-in colour replaced by a CSS variable."""
    variables = {light: f"var({name})" for name, (light, _) in colour_variables().items()}
    variables |= {INK: "currentColor", GRID: "var(--line)", PAGE: "var(--page)"}
    for colour, variable in variables.items():
        text = text.replace(colour, variable)
    return text
