r"""paper/: a file to \input for every table (booktabs) and figure (PDF), the verdicts in words, and example.tex, which shows them all."""

from collections.abc import Sequence
from pathlib import Path

from refta_profiler.report.parts import Block, Card, Document, Figure, Items, Section, Table, Text
from refta_profiler.report.plates import save
from refta_profiler.report.tex import escape, marked, opening
from refta_profiler.report.tex_tables import is_long, slug, table_text
from refta_profiler.run_folder import RunFolder
from refta_profiler.verdict_words import listing
from refta_profiler.whole_files import file_name, write_whole

PREAMBLE = r"""% All tables and figures of one report; compile it in this folder: pdflatex example.tex (twice, for references).
%
% In a paper of your own: \usepackage{booktabs,graphicx}, and longtable for tables of more than a page, then
%   \newcommand{\paperfolder}{path/to/this/folder}
%   \input{\paperfolder/figures/peaks}
%   \input{\paperfolder/tables/peaks}
% Every file is a float with its caption and label. figures/*.pdf can be included alone; those that end in -a, -b, ... are single panels,
% one column wide. Type is Times (STIX), 8pt; `report RUN --format latex --style FILE` sets another, and colours by label.
\documentclass[10pt,twocolumn]{article}
\usepackage[textwidth=496pt,textheight=650pt,columnsep=22pt]{geometry}
\usepackage{mathptmx,booktabs,graphicx,longtable}
\renewcommand{\topfraction}{0.95}\renewcommand{\dbltopfraction}{0.95}\renewcommand{\textfraction}{0.05}
\renewcommand{\floatpagefraction}{0.7}\renewcommand{\dblfloatpagefraction}{0.7}
\setcounter{topnumber}{5}\setcounter{dbltopnumber}{5}\setcounter{totalnumber}{8}
\setlength{\abovecaptionskip}{5pt}\setlength{\belowcaptionskip}{5pt}
\raggedbottom
\extrafloats{200}
\emergencystretch=2em
\newcommand{\paperfolder}{.}
"""


def write(run: RunFolder, document: Document) -> list[Path]:
    """paper/example.tex, then what it puts in."""
    folder = run.path / "paper"
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    name = slug(document.title)
    tables = [
        write_whole(folder / "tables" / f"{file_name(table.key)}.tex", table_text(table, label(table, name)))
        for table in document.tables()
        if table.rows
    ]
    figures = [path for figure in document.figures() for path in figure_files(document, figure, folder / "figures")]
    verdicts = write_whole(folder / "verdicts.tex", "\n\n".join(card_text(card) for card in document.cards) + "\n")
    return [write_whole(folder / "example.tex", example(document)), verdicts, *tables, *figures]


def figure_files(document: Document, figure: Figure, folder: Path) -> list[Path]:
    """The float, the whole figure, and its panels one by one where it has several."""
    name = file_name(figure.key)
    wide = "*" if len(figure.panels) > 1 else ""
    text = [rf"\providecommand{{\paperfolder}}{{.}}\begin{{figure{wide}}}[tbp]", r"\centering"]
    text += [rf"\includegraphics[width=\linewidth]{{\paperfolder/figures/{name}.pdf}}"]
    text += [rf"\caption{{{marked(figure.caption)}}}\label{{{label(figure, slug(document.title))}}}", rf"\end{{figure{wide}}}", ""]
    files = [write_whole(folder / f"{name}.tex", "\n".join(text)), save(document, figure.panels, folder / f"{name}.pdf")]
    singles = figure.panels if len(figure.panels) > 1 else []
    return files + [save(document, [panel], folder / f"{name}-{letter(index)}.pdf") for index, panel in enumerate(singles)]


def letter(index: int) -> str:
    """a to z, then aa and on."""
    return (letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def card_text(card: Card) -> str:
    """One verdict as a paragraph, what was measured elsewhere after it."""
    lines = [marked(f"{lead} {detail}".strip()) for lead, detail in card.lines]
    for target, found in card.elsewhere.items():
        lines += [rf"\emph{{Measured on {escape(target)}.}}", *(marked(f"{lead} {detail}".strip()) for lead, detail in found)]
    return "\n".join([rf"\paragraph{{{marked(f'{card.title}: {card.outcome}.')}}}", *lines])


def example(document: Document) -> str:
    """A document of two columns with everything, in its appendix what is longer than a page."""
    long = {table.key for table in document.tables() if is_long(table)}
    parts = [rf"\title{{{marked(document.title)}: {marked(document.question)}}}\author{{}}\date{{}}", r"\begin{document}\maketitle"]
    parts += [r"\section{Verdicts}", r"\input{\paperfolder/verdicts}"]
    parts += [part for section in document.sections for part in section_parts(section, long, slug(document.title))]
    appendix = [r"\clearpage\onecolumn\appendix\section{Tables of more than a page}"]
    appendix += [rf"\input{{\paperfolder/tables/{file_name(key)}}}" for key in sorted(long)]
    return PREAMBLE + "\n\n".join([*parts, *(appendix if long else []), r"\end{document}"]) + "\n"


def section_parts(section: Section, long: set[str], prefix: str) -> list[str]:
    """The section's heading, where its figures and tables are, and what it says and shows; nothing where TeX shows nothing of it."""
    parts = [part for block in section.blocks if (part := block_text(block, long))]
    shown = [block for block in section.blocks if isinstance(block, Figure | Table) and (isinstance(block, Figure) or block.rows)]
    names = [rf"{'Figure' if isinstance(one, Figure) else 'Table'}~\ref{{{label(one, prefix)}}}" for one in shown]
    parts = [f"{listing(names)}.", *parts] if names else parts
    return [rf"\section{{{marked(section.title)}}}", *parts] if parts else []


def label(block: Figure | Table, prefix: str) -> str:
    r"""What \ref takes."""
    return f"{'fig' if isinstance(block, Figure) else 'tab'}:{prefix}-{file_name(block.key)}"


def block_text(block: Block, long: set[str]) -> str:
    """One block; code and long tables are left out."""
    if isinstance(block, Text):
        return marked(block.text)
    if isinstance(block, Items):
        return items_text(block.items)
    if isinstance(block, Figure):
        return rf"\input{{\paperfolder/figures/{file_name(block.key)}}}"
    if isinstance(block, Table) and block.rows and block.key not in long:
        return rf"\input{{\paperfolder/tables/{file_name(block.key)}}}"
    return ""


def items_text(items: Sequence[str]) -> str:
    """A list."""
    return "\n".join([r"\begin{itemize}", *(rf"\item {opening(marked(item))}" for item in items), r"\end{itemize}"])
