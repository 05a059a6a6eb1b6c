"""One colour, marker and dash a name, the same in every figure; told apart by the colour-blind, in grey, on white and on black."""

from collections.abc import Mapping
from dataclasses import dataclass

INK, GRID, PAGE = "#101112", "#d5d6d7", "#fefefd"  # stand-ins that the page replaces by its own colours


@dataclass(frozen=True)
class Style:
    """How one name is drawn; `dash` as in SVG."""

    light: str
    dark: str
    marker: str
    dash: tuple[float, ...]


Styles = Mapping[str, "int | Style"]  # by name: a number, or a look that a style file gives

# Okabe and Ito's palette (jfly.uni-koeln.de/color), darkened where it falls under 3:1 on white, as it is on black
COLOURS = (
    ("#5b5f66", "#b4b9c2"),
    ("#a86400", "#f0a830"),
    ("#0066ad", "#58b0f0"),
    ("#b8478c", "#e58cc0"),
    ("#007f5c", "#2fc79a"),
    ("#c24e00", "#ff8a3d"),
    ("#7a5cc4", "#b39df5"),
    ("#6d7a00", "#c3d23a"),
)
MARKERS = ("X", "s", "o", "D", "^", "v", "P", "<")
DASHES = ((), (7, 3), (), (2, 2), (9, 3, 2, 3), (5, 2, 1, 2), (3, 1), (10, 2))
# the same markers as paths in a box of 12 by 12, for the legend
SHAPES = {
    "o": "M6 2a4 4 0 1 0 .01 0z",
    "s": "M2.5 2.5h7v7h-7z",
    "D": "M6 1.2 10.8 6 6 10.8 1.2 6z",
    "^": "M6 1.8 10.4 9.8H1.6z",
    "v": "M6 10.2 1.6 2.2h8.8z",
    "<": "M1.8 6 9.8 1.6v8.8z",
    "P": "M4.5 2h3v2.5H10v3H7.500V10h-3V7.500H2v-3h2.500z",
    "X": "M3.800 1.800 6 4 8.200 1.800 10.200 3.800 8 6 10.200 8.200 8.200 10.200 6 8 3.800 10.200 1.800 8.200 4 6 1.800 3.800z",
}
# what bytes at the peak are, in words: the metric is peak_<name>_bytes
CATEGORIES = {
    "weights": "frozen weights",
    "adapter": "adapter and head",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "batch": "batch",
    "activations": "activations kept",
    "reconstructed": "rebuilt weights",
    "temporary": "temporaries",
    "workspace": "workspaces",
}
CATEGORY_COLOURS = (
    ("#8a8f98", "#7d838d"),
    ("#1f6fb2", "#5aa9ea"),
    ("#57b4c9", "#8fdcec"),
    ("#3b4b8f", "#8593dd"),
    ("#b9c26a", "#8d9640"),
    ("#d9b38c", "#b88d60"),
    ("#c0392b", "#f0705f"),
    ("#e08e2b", "#f5b25a"),
    ("#6b4f8a", "#a989cc"),
)
HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\", "++++", "oo", "||||")  # in files, which are printed in grey


def style(index: int | Style) -> Style:
    """The style of a number; past the eighth colours come again, with other markers and dashes. A style is itself."""
    if isinstance(index, Style):
        return index
    turn, place = divmod(index, len(COLOURS))
    light, dark = COLOURS[place]
    return Style(light, dark, MARKERS[(place + 3 * turn) % len(MARKERS)], DASHES[(place + 3 * turn) % len(DASHES)])


def css_colour(index: int | Style) -> str:
    """What the page writes between the brackets of var(): a number's colour follows the page, a given one stands as it is."""
    return f"--given, {index.light}" if isinstance(index, Style) else f"--m{index % len(COLOURS)}"


def category_index(category: str, place: int) -> int:
    """The colour number of a category: those of memory keep theirs in every figure."""
    names = list(CATEGORIES.values())
    return names.index(category) if category in names else place + 1


def colour_variables() -> dict[str, tuple[str, str]]:
    """What the page calls each colour: the CSS variable to (on white, on black)."""
    names = {f"--m{index}": pair for index, pair in enumerate(COLOURS)}
    return names | {f"--k{index}": pair for index, pair in enumerate(CATEGORY_COLOURS)}
