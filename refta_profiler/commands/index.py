"""A page of all runs under a folder: index.html, with model, device, verdict and link. Runs that cannot be read say why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from refta_profiler.commands.answer import Answer
from refta_profiler.commands.options import JsonOption


def command(
    folder: Annotated[Path, typer.Argument(help="the folder that holds runs, at any depth", metavar="[FOLDER]")] = Path("reports"),
    json_: JsonOption = False,
) -> Answer:
    """The page's path, how many runs it lists, and those that cannot be read."""
    from refta_profiler.report.index_page import write_index

    path, entries = write_index(folder)
    broken = [f"  {one.path}: {one.broken}" for one in entries if one.broken]
    lines = [f"{path}: {len(entries)} {'run' if len(entries) == 1 else 'runs'}", *(["cannot be read:", *broken] if broken else [])]
    return Answer([asdict(one) for one in entries], "\n".join(lines))
