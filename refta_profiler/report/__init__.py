"""Reports from a run's stored rows: nothing is run, built or unpickled to make one."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from refta_profiler.errors import ScenarioError
from refta_profiler.report import writers
from refta_profiler.run_folder import RunFolder

if TYPE_CHECKING:
    from refta_profiler.report.parts import Document


def formats() -> list[str]:
    """The formats there are: one file each in writers/."""
    return sorted(module.name for module in iter_modules(writers.__path__))


def write(run: RunFolder, chosen: Sequence[str] = ("html",), *, style: Sequence[Path] = ()) -> list[Path]:
    """The files written into the run's folder, for each format its main file first; `style` are style files (report/look.py)."""
    return [path for paths in by_format(run, chosen, style=style).values() for path in paths]


def by_format(run: RunFolder, chosen: Sequence[str], *, style: Sequence[Path] = ()) -> dict[str, list[Path]]:
    """The same by format."""
    from refta_profiler.report import look
    from refta_profiler.report.document import build

    check(chosen)
    return set_in_type(run, build(run, look.read(style)), chosen)


def write_joint(runs: Sequence[RunFolder], out: Path, *, chosen: Sequence[str] = ("html",), style: Sequence[Path] = ()) -> list[Path]:
    """The files of one report of several runs, written into the folder `out`."""
    from refta_profiler.report import joint, look

    check(chosen)
    named = joint.named(runs)
    document = joint.document(named, look.read(style))
    return [path for paths in set_in_type(joint.folder(named, out), document, chosen).values() for path in paths]


def check(chosen: Sequence[str]) -> None:
    """Nothing; a ScenarioError where a format is none that there is."""
    unknown = [name for name in chosen if name not in formats()]
    if unknown:
        raise ScenarioError(f"--format: {', '.join(unknown)} is none of the formats {', '.join(formats())}")


def set_in_type(run: RunFolder, document: "Document", chosen: Sequence[str]) -> dict[str, list[Path]]:
    """The document written in every chosen format: by format its files, the main one first."""
    return {name: import_module(f"refta_profiler.report.writers.{name}").write(run, document) for name in chosen}
