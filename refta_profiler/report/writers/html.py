"""report.html: one file that needs no network, with its styles, script and figures inside."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from refta_profiler.report.figures import to_svg
from refta_profiler.report.palette import COLOURS, SHAPES, category_index, colour_variables, style
from refta_profiler.report.parts import Areas, Bars, Document, Figure, Map
from refta_profiler.run_folder import RunFolder, write_whole

TEMPLATES = Path(__file__).parent.parent / "templates"


def write(run: RunFolder, document: Document) -> list[Path]:
    """report.html in the run's folder."""
    return [write_whole(run.path / "report.html", render(document))]


def render(document: Document) -> str:
    """The page."""
    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"ticks": ticks, "breaks": breaks}
    kinds = {"kind": lambda block: type(block).__name__, "drawn": drawn, "legend": legend}
    return page.get_template("report.html.j2").render(document=document, colours=colour_variables(), **kinds)


def ticks(text: str) -> Markup:
    """The text escaped, with what stands between backticks set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def breaks(text: str) -> Markup:
    """The text escaped, with leave to break a line after a slash or an underscore."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(text))))


def drawn(document: Document, figure: Figure) -> list[Markup]:
    """The figure's panels as SVG; what matplotlib wrote has every name escaped already."""
    return [Markup(to_svg(panel, document.styles, prefix=f"{figure.key}-{index}")) for index, panel in enumerate(figure.panels)]


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


def line_entry(name: str, index: int) -> dict[str, str]:
    """The legend's entry of a line."""
    look = style(index)
    return {
        "name": name,
        "colour": f"--m{index % len(COLOURS)}",
        "shape": SHAPES[look.marker],
        "dash": " ".join(f"{part:g}" for part in look.dash),
    }
