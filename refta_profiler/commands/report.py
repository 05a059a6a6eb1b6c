"""The report of stored runs, from their rows alone.

Each run's report goes into its own folder: report.html, report.md, report.json, results.csv and tables/, figures/ (svg, pdf, png), and
paper/ (latex: tables and figures to put into a paper). With --out, one report of all runs goes there instead: every device by itself, the
environments side by side, a label followed by its run's name where two runs differ in it. --style takes matplotlib style files, and YAML
files that give labels their colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refta_profiler.commands.answer import Answer
from refta_profiler.commands.options import JsonOption


def command(
    runs: Annotated[list[Path], typer.Argument(help="run folders", metavar="RUN…")],
    formats: Annotated[str, typer.Option("--format", help="html, md, latex, csv, json, svg, pdf, png")] = "html",
    style: Annotated[list[Path] | None, typer.Option(help="a matplotlib style file, or colours by label as YAML")] = None,
    out: Annotated[Path | None, typer.Option(help="one report of all runs, written into this folder")] = None,
    json_: JsonOption = False,
) -> Answer:
    """The paths of the files that were written."""
    from refta_profiler import report as reports
    from refta_profiler.run_folder import RunFolder

    chosen = [one.strip() for one in formats.split(",") if one.strip()]
    opened = [RunFolder.open(one) for one in runs]
    if out is not None:
        paths = reports.write_joint(opened, out, chosen=chosen, style=style or [])
    else:
        paths = [path for run in opened for path in reports.write(run, chosen, style=style or [])]
    return Answer([{"path": str(path)} for path in paths], "\n".join(str(path) for path in paths))
