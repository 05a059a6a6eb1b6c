"""report.json: the whole report as data, figures included, and every row."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refta_profiler.report.parts import Block, Document
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import write_whole


def write(run: RunFolder, document: Document) -> list[Path]:
    """report.json in the run's folder."""
    content = as_data(document) | {"rows": [row.to_dict() for row in run.rows()]}
    return [write_whole(run.path / "report.json", json.dumps(content, indent=1, allow_nan=False))]


def as_data(document: Document) -> dict[str, Any]:
    """The document as mappings and lists; a block carries its kind."""
    sections = [
        {"key": section.key, "title": section.title, "blocks": [block_data(block) for block in section.blocks]}
        for section in document.sections
    ]
    return {
        "title": document.title,
        "facts": dict(document.facts),
        "verdicts": [asdict(card) for card in document.cards],
        "sections": sections,
    }


def block_data(block: Block) -> dict[str, Any]:
    """One block."""
    return {"kind": type(block).__name__.lower()} | asdict(block)
