"""Stacked areas drawn on axes."""

from itertools import pairwise

from matplotlib.axes import Axes

from refta_profiler.report.palette import CATEGORY_COLOURS, INK, PAGE, category_index
from refta_profiler.report.parts import Areas


def draw_areas(axes: Axes, panel: Areas) -> None:
    """The areas with a line where a phase ends, the phases' names on top, and a mark at the peak."""
    colours = [CATEGORY_COLOURS[category_index(name, place) % len(CATEGORY_COLOURS)][0] for place, name in enumerate(panel.stacks)]
    axes.stackplot(panel.x, *panel.stacks.values(), colors=colours, labels=list(panel.stacks), linewidth=0)
    axes.set_ylim(*panel.y_range)
    axes.set_xlim(panel.x[0], max(panel.x[-1], panel.x[0] + 1e-9))
    draw_marks(axes, panel)
    if panel.peak:
        x, y, text = panel.peak
        axes.plot([x], [y], marker="v", markersize=6, color=INK, markeredgecolor=PAGE, clip_on=False, linestyle="None")
        left = x > (panel.x[0] + panel.x[-1]) / 2
        place = (-7, 3) if left else (7, 3)
        axes.annotate(text, (x, y), xytext=place, textcoords="offset points", fontsize=8, ha="right" if left else "left", va="bottom")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)


def draw_marks(axes: Axes, panel: Areas) -> None:
    """A line at the end of each phase but the last, and the phases' names over the middle of those that are wide enough."""
    width = panel.x[-1] - panel.x[0] or 1.0
    for (start, _), (end, name) in pairwise([(panel.x[0], ""), *panel.marks]):
        if end < panel.x[-1]:
            axes.axvline(end, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        if end - start > ROOM * width:
            axes.annotate(name, ((start + end) / 2, 0.98), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8)


ROOM = 0.12  # of the width: what a phase's name takes
