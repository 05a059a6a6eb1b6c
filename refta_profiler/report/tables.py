"""Cells, for tables that are read by people and sorted by machines."""

from refta_profiler.report.material import mebibytes
from refta_profiler.report.parts import Cell
from refta_profiler.units import format_count, format_percent, format_seconds, significant

ABSENT = Cell("–")


def text_cell(text: str | None) -> Cell:
    """A cell of text."""
    return Cell(text, text) if text else ABSENT


def bytes_cell(count: float | None, tone: str = "") -> Cell:
    """A cell of bytes, read in MiB."""
    return ABSENT if count is None else Cell(mebibytes(count), count, tone)


def count_cell(count: float | None) -> Cell:
    """A cell of a whole number."""
    return ABSENT if count is None else Cell(format_count(count), count)


def gigaflop_cell(flops: float | None) -> Cell:
    """A cell of FLOPs, read in GFLOP."""
    return ABSENT if flops is None else Cell(significant(flops / 1e9, 4), flops)


def seconds_cell(seconds: float | None) -> Cell:
    """A cell of a time."""
    return ABSENT if seconds is None else Cell(format_seconds(seconds), seconds)


def difference_cell(fraction: float | None, tone: str = "") -> Cell:
    """A cell of a signed fraction, read in per cent: −6.1%, +3%."""
    if fraction is None:
        return Cell("–", None, tone)
    percent = format_percent(abs(fraction))
    sign = "" if percent == "0%" else "−" if fraction < 0 else "+"
    return Cell(sign + percent, fraction, tone)
