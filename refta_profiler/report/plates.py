"""Figures for files: all panels of a figure on one plate with one legend, in sizes and type for a paper, told apart in grey as well."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from refta_profiler.report.figures import draw_into, drawing_settings, shorten
from refta_profiler.report.palette import CATEGORY_COLOURS, HATCHES, PAGE, Style, Styles, category_index, style
from refta_profiler.report.parts import Areas, Bars, Document, Drawn, Map, Panel
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import file_name

Stacked = Bars | Areas  # panels of `stacks`: what is not a Panel nor a Map
PAPER = Path(__file__).parent / "styles" / "paper.mplstyle"
GAP = 0.3  # inches between two columns of a paper
BAR, AROUND_BARS, LEGEND_LINE = 0.155, 0.62, 0.14  # inches
PLAIN = {"pdf": {"CreationDate": None}, "svg": {"Date": None, "Creator": None}, "png": {"Software": None}}  # the same file every time


def save_all(run: RunFolder, document: Document, kind: str) -> list[Path]:
    """figures/<key>.<kind> in the run's folder for every figure of the document."""
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    return [save(document, figure.panels, folder / f"{file_name(figure.key)}.{kind}") for figure in document.figures()]


def save(document: Document, panels: Sequence[Drawn], path: Path) -> Path:
    """The panels on one plate as a file of the kind that its name ends in."""
    kind = path.suffix.removeprefix(".")
    with paper_settings(document.settings):
        plate(panels, document.styles).savefig(path, format=kind, facecolor="none" if kind == "pdf" else "white", metadata=PLAIN[kind])
    return path


@contextmanager
def paper_settings(own: Mapping[str, Any]) -> Iterator[None]:
    """Within it matplotlib draws as papers want it, and as `own` says where that differs."""
    with drawing_settings(), matplotlib.rc_context(matplotlib.rc_params_from_file(PAPER, use_default_template=False)):
        settings: Any = dict(own)
        with matplotlib.rc_context(settings):
            yield


def plate(panels: Sequence[Drawn], styles: Styles) -> Drawing:
    """One column wide for a single panel, two for several, the legend on top."""
    columns = min(len(panels), 3 if isinstance(panels[0], Map) else 2)
    rows = -(-len(panels) // columns)
    width, height = matplotlib.rcParams["figure.figsize"]
    width = width if columns == 1 else 2 * width + GAP
    handles = legend(panels, styles)
    across = legend_columns([str(handle.get_label()) for handle in handles], width)
    lines = -(-len(handles) // across)
    drawing = Drawing(figsize=(width, rows * panel_height(panels, height) + LEGEND_LINE * lines), layout="constrained")
    for index in range(len(panels)):
        set_panel(drawing.add_subplot(rows, columns, index + 1), panels, index, columns=columns, styles=styles)
    if handles:
        drawing.legend(handles=handles, loc="outside upper center", ncols=across, frameon=False, columnspacing=1.2, handlelength=2.4)
    return drawing


def panel_height(panels: Sequence[Drawn], height: float) -> float:
    """Inches for one row of panels: bars need room by their number."""
    counts = [len(panel.names) for panel in panels if isinstance(panel, Bars)]
    return AROUND_BARS + BAR * max(counts) if counts else height


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many entries stand side by side: as many of the longest as fit the width."""
    size = matplotlib.rcParams["font.size"] / 72
    longest = size * (3.4 + 0.4 * max((len(label) for label in labels), default=1))
    return max(1, min(len(labels), int(width / longest)))


def set_panel(axes: Axes, panels: Sequence[Drawn], index: int, *, columns: int, styles: Styles) -> None:
    """One panel: lettered where there are several, and what it shares with its left neighbour is not said again."""
    panel = panels[index]
    draw_into(axes, panel, styles)
    letter = f"({chr(ord('a') + index)}) " if len(panels) > 1 else ""
    axes.set_title(letter + shorten(panel.title, 48), loc="left")
    before = panels[index - 1] if index % columns else None
    if isinstance(panel, Bars):
        if isinstance(before, Bars) and list(before.names) == list(panel.names):
            axes.set_yticklabels([])
    elif before is not None and not isinstance(before, Bars) and before.y_label == panel.y_label:
        axes.set_ylabel("")
    if isinstance(panel, Map):
        hatch_regions(axes, panel, map_names(panels), styles)
    elif not isinstance(panel, Panel):
        hatch_stacks(axes, panel)


def hatch_stacks(axes: Axes, panel: Stacked) -> None:
    """A hatch a category, where there are several: on bars, or on whatever areas the panel is drawn as."""
    names = list(panel.stacks) if len(panel.stacks) > 1 else []
    drawn = [list(container) for container in axes.containers] if axes.containers else [[area] for area in axes.collections]
    for place, (name, shapes) in enumerate(zip(names, drawn, strict=False)):
        for shape in shapes:
            shape.set_hatch(HATCHES[category_index(name, place) % len(HATCHES)])
            shape.set_edgecolor(PAGE)


def hatch_regions(axes: Axes, panel: Map, names: Sequence[str], styles: Styles) -> None:
    """A hatch a name in the name's own colour: tints alone are one grey in print."""
    for region, area in zip(panel.regions, axes.collections, strict=False):
        colour = style(styles.get(region[4], 0)).light
        area.set_alpha(None)
        area.set_facecolor((colour, TINT))
        area.set_hatch(HATCHES[names.index(region[4]) % len(HATCHES)])
        area.set_edgecolor((colour, TINT_OF_HATCH))


def map_names(panels: Sequence[Drawn]) -> list[str]:
    """The names of all maps on the plate: a name has one hatch on all of them."""
    return list(dict.fromkeys(name for panel in panels if isinstance(panel, Map) for name in panel.names))


TINT, TINT_OF_HATCH = 0.2, 0.5


def legend(panels: Sequence[Drawn], styles: Styles) -> list[Artist]:
    """What colours, dashes, marks and hatches mean, an entry a name; nothing for bars that bear their names."""
    found: dict[str, Artist] = {}
    places = map_names(panels)
    for panel in panels:
        if isinstance(panel, Map):
            found |= {name: region_patch(name, style(styles.get(name, 0)), places.index(name)) for name in panel.names}
        elif isinstance(panel, Panel):
            joined = {series.name: series.joined for series in sorted(panel.series, key=lambda series: series.joined)}
            names = [name for name in dict.fromkeys(series.name for series in panel.series) if name not in found]
            found |= {name: line(name, style(styles.get(name, 0)), "joined" if joined[name] else "alone") for name in names}
        else:
            names = list(panel.stacks) if len(panel.stacks) > 1 else []
            found |= {name: category_patch(name, place) for place, name in enumerate(names)}
    return list(found.values())


def category_patch(name: str, place: int) -> Patch:
    """A box as the bars of a category are filled."""
    number = category_index(name, place)
    colour = CATEGORY_COLOURS[number % len(CATEGORY_COLOURS)][0]
    return Patch(facecolor=colour, edgecolor=PAGE, hatch=HATCHES[number % len(HATCHES)], label=shorten(name))


def region_patch(name: str, look: Style, place: int) -> Patch:
    """A box as the region of a name is filled."""
    return Patch(
        facecolor=(look.light, TINT),
        edgecolor=(look.light, TINT_OF_HATCH),
        linewidth=0,
        hatch=HATCHES[place % len(HATCHES)],
        label=shorten(name),
    )


def line(name: str, look: Style, drawn: str) -> Line2D:
    """The line or mark of a name; `drawn` is 'joined' or 'alone'."""
    dash: Any = ((0, look.dash) if look.dash else "-") if drawn == "joined" else "None"
    face = PAGE if drawn == "joined" else look.light
    return Line2D([], [], color=look.light, linestyle=dash, marker=look.marker, markerfacecolor=face, label=shorten(name))
