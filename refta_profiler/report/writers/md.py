"""report.md, with each figure as an SVG file in figures/."""

import re
from pathlib import Path

from refta_profiler.report.parts import Block, Card, Code, Document, Figure, Items, Table, Text
from refta_profiler.report.plates import save_all
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import file_name, write_whole


def write(run: RunFolder, document: Document) -> list[Path]:
    """report.md, then the figures that it shows."""
    drawn = save_all(run, document, "svg")
    return [write_whole(run.path / "report.md", render(document)), *drawn]


def render(document: Document) -> str:
    """The report as Markdown."""
    parts = [f"# {plain(document.title)}: {document.question}", "\n".join(f"- {name}: {plain(value)}" for name, value in document.facts)]
    parts += [card_text(card) for card in document.cards]
    for section in document.sections:
        parts += [f"## {section.title}", *(block_text(block) for block in section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """The text on one line with nothing in it that Markdown or HTML would read; names between backticks stay code."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    parts = re.split(r"(`[^`]*`)", one_line)
    return "".join(part if index % 2 else re.sub(r"([\\*_\[\]~`])", r"\\\1", part) for index, part in enumerate(parts))


def card_text(card: Card) -> str:
    """One verdict."""
    lines = [f"**{plain(lead)}** {plain(detail)}".strip() if detail else plain(lead) for lead, detail in card.lines]
    lines += [
        f"*Measured on {target}.* {plain(lead)} {plain(detail)}".strip()
        for target, found in card.elsewhere.items()
        for lead, detail in found
    ]
    return "\n\n".join([f"## {card.title}: {card.outcome}", f"*{card.question}*", *lines])


def block_text(block: Block) -> str:
    """One block."""
    if isinstance(block, Text):
        return plain(block.text)
    if isinstance(block, Items):
        return "\n".join(f"- {plain(item)}" for item in block.items)
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
        return f"{plain(block.caption)}\n\n{fence}\n{block.text.rstrip()}\n{fence}"
    return table_text(block) if isinstance(block, Table) else figure_text(block)


def figure_text(figure: Figure) -> str:
    """The caption and the figure."""
    titles = "; ".join(plain(panel.title).replace("`", "") for panel in figure.panels)
    return f"{plain(figure.caption)}\n\n![{titles}](figures/{file_name(figure.key)}.svg)"


def table_text(table: Table) -> str:
    """The caption and the table with pipes."""
    head = [plain(f"{column.name} ({column.unit})" if column.unit else column.name) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[f"**{plain(cell.text)}**" if "best" in cell.tone else plain(cell.text) for cell in row] for row in table.rows]
    return f"{plain(table.caption)}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])
