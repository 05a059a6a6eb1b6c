"""report.html: one file that needs no network, with its styles, script and figures inside."""

import json
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from refta_profiler.report.figure_data import address
from refta_profiler.report.figures import to_svg
from refta_profiler.report.palette import SHAPES, Style, category_index, colour_variables, css_colour, style
from refta_profiler.report.parts import Areas, Bars, Document, Figure, Map
from refta_profiler.report.templates import environment
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import write_whole

MOST_PANELS = 12  # of one figure: a run of a hundred settings has as many panels a figure, each of 20 KB, that nobody compares by eye


def write(run: RunFolder, document: Document) -> list[Path]:
    """report.html in the run's folder."""
    return [write_whole(run.path / "report.html", render(document))]


def render(document: Document) -> str:
    """The page."""
    page = environment()
    page.filters |= {"ticks": ticks, "breaks": breaks}
    kinds = {
        "kind": lambda block: type(block).__name__,
        "drawn": drawn,
        "legend": legend,
        "embedded": embedded,
        "data_of": address,
        "most": MOST_PANELS,
    }
    return page.get_template("report.html.j2").render(document=document, colours=colour_variables(), **kinds)


def embedded(value: Any) -> Markup:
    """The value as JSON to stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}))


def ticks(text: str) -> Markup:
    """The text escaped, with what stands between backticks set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def breaks(text: str) -> Markup:
    """The text escaped, with leave to break a line after a slash or an underscore."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(text))))


def drawn(document: Document, figure: Figure) -> list[Markup]:
    """The figure's panels as SVG, of many the first; what matplotlib wrote has every name escaped already."""
    return [
        Markup(to_svg(panel, document.styles, prefix=f"{figure.key}-{index}")) for index, panel in enumerate(figure.panels[:MOST_PANELS])
    ]


def legend(document: Document, figure: Figure) -> list[dict[str, str]]:
    """What the colours of a figure mean, one entry a line, mark or category."""
    entries: dict[str, dict[str, str]] = {}
    for panel in figure.panels:
        if isinstance(panel, Bars | Areas):
            named = {name: category_index(name, place) for place, name in enumerate(panel.stacks)} if len(panel.stacks) > 1 else {}
            entries |= {name: {"name": name, "colour": f"--k{index}", "shape": "", "dash": ""} for name, index in named.items()}
        else:
            names = panel.names if isinstance(panel, Map) else [series.name for series in panel.series]
            entries |= {name: line_entry(name, document.styles[name]) for name in names if name not in entries}
    return list(entries.values())


def line_entry(name: str, index: int | Style) -> dict[str, str]:
    """The legend's entry of a line."""
    look = style(index)
    return {
        "name": name,
        "colour": css_colour(index),
        "shape": SHAPES[look.marker],
        "dash": " ".join(f"{part:g}" for part in look.dash),
    }
