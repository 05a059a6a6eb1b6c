"""figures/<name>.pdf: every figure as PDF, for papers."""

from pathlib import Path

from refta_profiler.report.parts import Document
from refta_profiler.report.plates import save_all
from refta_profiler.run_folder import RunFolder


def write(run: RunFolder, document: Document) -> list[Path]:
    """The figures."""
    return save_all(run, document, "pdf")
