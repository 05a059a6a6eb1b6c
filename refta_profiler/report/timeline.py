"""The section on one step's memory over time, as measured."""

from collections.abc import Sequence
from typing import Any

from refta_profiler.report.material import Material
from refta_profiler.report.pair import Looked, looked_into, place_words
from refta_profiler.report.palette import CATEGORIES
from refta_profiler.report.parts import Areas, Column, Figure, Section, Table
from refta_profiler.report.tables import bytes_cell, text_cell
from refta_profiler.units import format_bytes

DRAWN = 220  # moments of a timeline that are drawn
MOSTLY = 0.5  # of the peak: where frozen weights are more than this, the axis starts just below them
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def timeline_section(material: Material) -> Section | None:
    """The memory of one step over time by category for the decisive method and its opponent; None where no timeline was taken."""
    found = looked_into(material, "timeline")
    if not found:
        return None
    caption = caption_of(material, found)
    return Section("timeline", "Timeline of one step", [Figure("timeline", caption, caption, panels(found)), table(material, found)])


def panels(found: Sequence[Looked]) -> list[Areas]:
    """A panel a method, all on one scale."""
    peak = max(one.found["peak_bytes"] for one in found)
    factor, unit = next(((size, name) for size, name in UNITS if peak >= size), (1, "B"))
    low = min(min(one.found["bytes"]["weights"]) for one in found)
    start = 0.97 * low if low > MOSTLY * peak else 0.0
    label = unit if not start else f"{unit} (from {format_bytes(start)} on)"
    room = peak + 0.1 * (peak - start)
    return [areas(one.label, one.found, factor=factor, label=label, y_range=(start / factor, room / factor)) for one in found]


def areas(title: str, found: dict[str, Any], *, factor: int, label: str, y_range: tuple[float, float]) -> Areas:
    """One timeline as stacked areas; categories that are never there are left out."""
    chosen = thinned(found)
    seconds = [1e3 * found["seconds"][index] for index in chosen]
    stacks = {
        words: [found["bytes"][name][index] / factor for index in chosen]
        for name, words in CATEGORIES.items()
        if any(found["bytes"].get(name, ()))
    }
    top = found["peak_index"]
    peak = (1e3 * found["seconds"][top], found["peak_bytes"] / factor, f"peak {format_bytes(found['peak_bytes'])}")
    marks = [(1e3 * found["seconds"][index], phase) for phase, index in found["ends"]]
    return Areas(title, "milliseconds, under the profiler", label, seconds, stacks, y_range, marks, peak)


def thinned(found: dict[str, Any]) -> list[int]:
    """The moments to draw: about DRAWN, the peak and the ends of phases among them, and of each stretch its highest."""
    totals = [sum(values) for values in zip(*found["bytes"].values(), strict=True)]
    step = max(1, len(totals) // (DRAWN // 2))
    stretches = [range(start, min(start + step, len(totals))) for start in range(0, len(totals), step)]
    highest = {max(stretch, key=lambda index: totals[index]) for stretch in stretches}
    return sorted(highest | {stretch[-1] for stretch in stretches} | {0, found["peak_index"], *(index for _, index in found["ends"])})


def caption_of(material: Material, found: Sequence[Looked]) -> str:
    """The finding: in which phase each has its peak and what most of it is beside the weights, and what the two differ in most."""
    parts = []
    for one in found:
        at_peak = {name: size for name, size in one.found["at_peak"].items() if name != "weights"}
        most = max(at_peak, key=lambda name: at_peak[name])
        parts.append(
            f"`{one.label}` peaks in {one.found['phase'][one.found['peak_index']]} at {format_bytes(one.found['peak_bytes'])}, "
            f"most of it beside the weights {CATEGORIES[most]} ({format_bytes(at_peak[most])})"
        )
    return f"What is live during one measured step {place_words(material, found)}: {'; '.join(parts)}.{difference_words(found)}"


def difference_words(found: Sequence[Looked]) -> str:
    """What two peaks differ in most; nothing where there is one, or they are equal."""
    if len(found) != 2:
        return ""
    first, second = (one.found["at_peak"] for one in found)
    most = max(first, key=lambda name: abs(first[name] - second[name]))
    if first[most] == second[most]:
        return ""
    return f" At their peaks they differ most in {CATEGORIES[most]}: {format_bytes(first[most])} against {format_bytes(second[most])}."


def table(material: Material, found: Sequence[Looked]) -> Table:
    """Bytes at the peak and at the end of each phase by category."""
    columns = [Column("method"), Column("moment"), Column("live", "MiB", "live_bytes", True)]
    columns += [Column(words, "MiB", f"{name}_bytes", True) for name, words in CATEGORIES.items()]
    rows = []
    for one in found:
        moments = [("peak", one.found["peak_index"]), *((f"end of {phase}", index) for phase, index in one.found["ends"])]
        for words, index in moments:
            sizes = {name: values[index] for name, values in one.found["bytes"].items()}
            cells = [bytes_cell(sizes.get(name)) for name in CATEGORIES]
            rows.append([text_cell(one.label), text_cell(words), bytes_cell(sum(sizes.values())), *cells])
    caption = f"Bytes live at moments of one step {place_words(material, found)}, in MiB."
    return Table("timeline", caption, columns, rows, folded=True)
