"""Reports from a run's stored rows: nothing is run, built or unpickled to make one."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from refta_profiler.errors import ScenarioError
from refta_profiler.report import writers
from refta_profiler.run_folder import RunFolder


def formats() -> list[str]:
    """The formats there are: one file each in writers/."""
    return sorted(module.name for module in iter_modules(writers.__path__))


def write(run: RunFolder, chosen: Sequence[str] = ("html",), *, style: Sequence[Path] = ()) -> list[Path]:
    """The files written into the run's folder, for each format its main file first; `style` are style files (report/look.py)."""
    from refta_profiler.report import look
    from refta_profiler.report.document import build

    unknown = [name for name in chosen if name not in formats()]
    if unknown:
        raise ScenarioError(f"--format: {', '.join(unknown)} is none of the formats {', '.join(formats())}")
    document = build(run, look.read(style))
    return [path for name in chosen for path in import_module(f"refta_profiler.report.writers.{name}").write(run, document)]
