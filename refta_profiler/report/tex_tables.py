"""Tables for papers: booktabs, as wide as one column or both, in the largest type that fits; long ones over several pages."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refta_profiler.report.parts import Cell, Column, Table
from refta_profiler.report.tex import LONGEST_WORD, escape, marked, opening

COLUMN, PAGE = 237.0, 496.0  # points: one column and the text of the example, as in CVPR, ICML and IEEE
SIGN = {"small": 4.45, "footnotesize": 3.95, "scriptsize": 3.5}  # points of a sign in Times, on the safe side
GAPS = {"small": 10.0, "footnotesize": 8.0, "scriptsize": 6.0}  # points between two columns
MOST_ROWS = 42  # what a page holds
HEADING = 14  # signs in a line of a heading
NARROWEST = 9  # signs of a column of text that is broken into lines


@dataclass(frozen=True)
class Layout:
    """How a table is set: its type, whether over both columns, and the width in points of each column that is broken into lines."""

    size: str
    wide: bool
    widths: Sequence[float | None]


def compact(table: Table) -> Table:
    """The table without the columns of text that say the same in every row; the caption says it once."""
    same = [
        index
        for index, column in enumerate(table.columns)
        if index and not column.numeric and len(table.rows) > 1 and len({row[index].text for row in table.rows}) == 1
    ]
    if not same:
        return table
    said = [f"{table.columns[index].name} {table.rows[0][index].text}" for index in same if len(table.rows[0][index].text) > 1]
    caption = f"{table.caption} In every row: {'; '.join(said)}." if said else table.caption
    kept = [index for index in range(len(table.columns)) if index not in same]
    rows = [[row[index] for index in kept] for row in table.rows]
    return replace(table, caption=caption, columns=[table.columns[index] for index in kept], rows=rows)


def layout(table: Table) -> Layout:
    """The narrowest place with the largest type that takes the table; where none does, columns of text are broken into lines."""
    signs = [natural(table, index) for index in range(len(table.columns))]
    places = [(COLUMN, size) for size in ("small", "footnotesize")] + [(PAGE, size) for size in SIGN]
    places = [place for place in places if place[0] == PAGE or len(table.rows) <= MOST_ROWS]
    for room, size in places:
        if sum(signs) * SIGN[size] + GAPS[size] * len(signs) <= room:
            return Layout(size, room == PAGE, [None] * len(signs))
    return broken(table, signs)


def natural(table: Table, index: int) -> int:
    """How many signs wide a column is, its heading in several lines."""
    head = max((len(line) for line in heading_lines(table.columns[index])), default=0)
    return max([head, *(sum(min(len(word), LONGEST_WORD) + 1 for word in row[index].text.split()) - 1 for row in table.rows)])


def broken(table: Table, signs: Sequence[int]) -> Layout:
    """Over both columns, the room that short columns leave shared among the columns of long text by how much they have to say."""
    size = "footnotesize" if len(signs) < 9 else "scriptsize"
    long = [index for index, column in enumerate(table.columns) if not column.numeric and signs[index] > 1.5 * NARROWEST]
    short = sum(count for index, count in enumerate(signs) if index not in long)
    left = PAGE / SIGN[size] - short - GAPS[size] / SIGN[size] * len(signs)
    weights = {index: max(average(table, index), 1.0) ** 0.7 for index in long}
    shares = {index: max(NARROWEST, left * weight / sum(weights.values())) for index, weight in weights.items()}
    return Layout(size, True, [SIGN[size] * min(shares[index], signs[index]) if index in shares else None for index in range(len(signs))])


def is_long(table: Table) -> bool:
    """Whether a page does not hold the table, the lines of broken cells counted."""
    table = compact(table)
    chosen = layout(table)
    lines = [
        max(-(-len(one.text) * SIGN[chosen.size] // width) if width else 1 for one, width in zip(row, chosen.widths, strict=True))
        for row in table.rows
    ]
    return sum(lines) > MOST_ROWS


def average(table: Table, index: int) -> float:
    """Signs of a usual cell of the column."""
    return sum(len(row[index].text) for row in table.rows) / max(len(table.rows), 1)


def heading_lines(column: Column) -> list[str]:
    """The heading in lines of about 14 signs, broken at spaces, slashes and underscores; the unit on the last."""
    lines: list[str] = []
    for word in [*re.findall(r"[^\s/_]+[/_]*|[/_]+", column.name), *([f"({column.unit})"] if column.unit else [])]:
        if lines and len(lines[-1]) + len(word) < HEADING and not word.startswith("("):
            lines[-1] += word if lines[-1].endswith(("/", "_")) else f" {word}"
        else:
            lines.append(word)
    return lines


def heading(column: Column, width: float | None) -> str:
    """The heading of a column, set in lines where it is long and its column is not."""
    lines = [opening(escape(line)) for line in heading_lines(column)]
    if width is not None:
        return rf"\raggedright {' '.join(lines)}"
    if len(lines) < 2:
        return "".join(lines)
    inner = r"\\".join(lines)
    return rf"\begin{{tabular}}[b]{{@{{}}{'r' if column.numeric else 'l'}@{{}}}}{inner}\end{{tabular}}"


def cell(content: Cell, width: float | None) -> str:
    """The cell, bold where it decides."""
    text = escape(content.text)
    text = rf"\textbf{{{text}}}" if "best" in content.tone else text
    return text if width is None else rf"\raggedright {text}"


def table_text(table: Table, label: str) -> str:
    r"""The table to be put in with \input: a float, or a longtable (which needs one-column text) where a page does not hold it."""
    long = is_long(table)
    table = compact(table)
    chosen = layout(table)
    rows = [row_text([cell(*pair) for pair in zip(row, chosen.widths, strict=True)]) for row in table.rows]
    head = row_text([heading(*pair) for pair in zip(table.columns, chosen.widths, strict=True)])
    kinds = "".join(kind(*pair) for pair in zip(table.columns, chosen.widths, strict=True))
    caption = rf"\caption{{{marked(table.caption)}}}\label{{{label}}}"
    size = rf"\{chosen.size}\setlength{{\tabcolsep}}{{{GAPS[chosen.size] / 2:g}pt}}"
    if long:
        head = "\n".join([rf"{caption}\\", r"\toprule", head, r"\midrule\endfirsthead", r"\toprule", head, r"\midrule\endhead"])
        start, end = [rf"\begingroup{size}", rf"\begin{{longtable}}{{{kinds}}}"], [r"\bottomrule", r"\end{longtable}", r"\endgroup", ""]
        return "\n".join([*start, head, *rows, *end])
    float_ = "table*" if chosen.wide else "table"
    body = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([rf"\begin{{{float_}}}[tbp]", rf"\centering{size}", caption, *body, rf"\end{{{float_}}}", ""])


def row_text(cells: Sequence[str]) -> str:
    """The cells of one row, set in type already."""
    return opening(" & ".join(cells)) + r" \tabularnewline"


def kind(column: Column, width: float | None) -> str:
    """The column as tabular's argument says it."""
    return "r" if column.numeric else "l" if width is None else f"p{{{width:.0f}pt}}"


def slug(text: str) -> str:
    """A name as a label takes it: letters, digits and hyphens, at most 40."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].strip("-").lower() or "run"
