"""latex/: a file a table (booktabs) and a figure (PDF) to put into a paper, and report.tex, which shows them all."""

import re
from pathlib import Path

from refta_profiler.report.figures import save_pdf
from refta_profiler.report.parts import Cell, Document, Figure, Section, Table
from refta_profiler.run_folder import RunFolder, write_whole

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_\allowbreak{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": r"$-$",
    "–": "--",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "µ": r"$\mu$",
    "∂": r"$\partial$",
    "Δ": r"$\Delta$",
    "Φ": r"$\Phi$",
}
PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx,longtable,geometry}
\geometry{margin=2cm}
\begin{document}
"""


def write(run: RunFolder, document: Document) -> list[Path]:
    """latex/report.tex, then its tables and figures."""
    folder = run.path / "latex"
    folder.mkdir(exist_ok=True)
    tables = [write_whole(folder / f"{file_name(table.key)}.tex", table_text(table)) for table in document.tables()]
    figures = [
        save_pdf(panel, document.styles, folder / f"{file_name(figure.key)}-{index}.pdf")
        for figure in document.figures()
        for index, panel in enumerate(figure.panels)
    ]
    return [write_whole(folder / "report.tex", render(document)), *tables, *figures]


def file_name(key: str) -> str:
    """A key as a file name that TeX takes."""
    return re.sub(r"[^A-Za-z0-9-]", "-", key)


def escape(text: str) -> str:
    """The text with nothing in it that TeX would act on; signs that the font has not become a question mark."""
    return "".join(SPECIAL.get(sign, sign if sign.isascii() and (sign.isprintable() or sign == " ") else "?") for sign in text)


def marked(text: str) -> str:
    """The text escaped, with what stands between backticks in typewriter type."""
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escape(text))


def render(document: Document) -> str:
    """A document that can be compiled in the folder."""
    parts = [rf"\section*{{{marked(document.title)}: does it pay off?}}"]
    for card in document.cards:
        parts += [rf"\subsection*{{{card.title}: {marked(card.outcome)}}}", *(marked(f"{lead} {detail}") for lead, detail in card.lines)]
    parts += [part for section in document.sections for part in section_parts(section)]
    return PREAMBLE + "\n\n".join(parts) + "\n\\end{document}\n"


def section_parts(section: Section) -> list[str]:
    """The section's figures and tables."""
    parts = [rf"\section*{{{marked(section.title)}}}"]
    for block in section.blocks:
        parts += figure_parts(block) if isinstance(block, Figure) else []
        parts += [rf"\input{{{file_name(block.key)}}}"] if isinstance(block, Table) and block.rows else []
    return parts if len(parts) > 1 else []


def figure_parts(figure: Figure) -> list[str]:
    """The panels under their caption."""
    panels = "\n".join(
        rf"\includegraphics[width={'0.7' if len(figure.panels) == 1 else '0.49'}\linewidth]{{{file_name(figure.key)}-{index}.pdf}}"
        for index in range(len(figure.panels))
    )
    return ["\n".join([r"\begin{figure}[htbp]", r"\centering", panels, rf"\caption{{{marked(figure.caption)}}}", r"\end{figure}"])]


def cell_text(cell: Cell) -> str:
    """The cell, bold where it decides."""
    return rf"\textbf{{{escape(cell.text)}}}" if "best" in cell.tone else escape(cell.text)


def table_text(table: Table) -> str:
    """The table as a longtable with booktabs rules."""
    head = " & ".join(escape(f"{column.name} ({column.unit})" if column.unit else column.name) for column in table.columns)
    rows = [" & ".join(cell_text(cell) for cell in row) + r" \\" for row in table.rows]
    kinds = "".join("r" if column.numeric else "l" for column in table.columns)
    caption = rf"\caption{{{marked(table.caption)}}}\\"
    lines = [r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}", rf"\begin{{longtable}}{{{kinds}}}", caption]
    return "\n".join([*lines, r"\toprule", rf"{head} \\", r"\midrule\endhead", *rows, r"\bottomrule", r"\end{longtable}", r"\endgroup", ""])
