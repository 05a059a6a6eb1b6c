"""index.html: every run under a folder with its verdict and a link to its report; runs that cannot be read stand there with the reason."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from refta_profiler.errors import ScenarioError
from refta_profiler.headline import head
from refta_profiler.report.material import Material
from refta_profiler.report.palette import colour_variables
from refta_profiler.report.templates import environment
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import write_whole

MARKS = ("scenario.yaml", "results.csv", "points")  # what a run's folder holds; one of them alone is a broken run
REPORT = "report.html"


@dataclass(frozen=True)
class Entry:
    """One run as it stands in the index; `broken` says why it cannot be read, '' where it can."""

    path: str  # under the index's folder
    name: str = ""
    model: str = ""
    date: str = ""
    device: str = ""
    points: str = ""
    verdict: str = ""
    broken: str = ""
    has_report: bool = False

    @property
    def link(self) -> str:
        """The address of its report, or of its folder where there is none."""
        return quote(f"{self.path}/{REPORT}" if self.has_report else f"{self.path}/")


def write_index(folder: Path) -> tuple[Path, list[Entry]]:
    """folder/index.html and what stands in it, newest first; a ScenarioError where there is no such folder or no run in it."""
    if not folder.is_dir():
        raise ScenarioError(f"{folder}: no such folder; give the one that holds runs, e.g. reports")
    entries = [entry(folder, path) for path in run_paths(folder)]
    if not entries:
        raise ScenarioError(f"{folder}: holds no run; a run's folder is the one with scenario.yaml in it")
    entries.sort(key=lambda one: (not one.broken, one.date), reverse=True)
    return write_whole(folder / "index.html", render(folder, entries)), entries


def run_paths(folder: Path) -> list[Path]:
    """The folders of runs under a folder; links are not followed, and what lies inside a run is its own."""
    found = []
    for place, names, files in os.walk(folder):
        if Path(place) != folder and any(mark in (*names, *files) for mark in MARKS):
            found.append(Path(place))
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
    return sorted(found)


def entry(folder: Path, path: Path) -> Entry:
    """One run, or why it cannot be read."""
    where = path.relative_to(folder).as_posix()
    try:
        return readable(where, RunFolder.open(path))
    except (ScenarioError, OSError) as error:
        return Entry(where, path.parent.name, broken=str(error).replace(f"{path}: ", ""), has_report=(path / REPORT).is_file())
    except Exception as error:  # a folder may hold anything; one bad run must not hide the others
        return Entry(where, path.parent.name, broken=f"{type(error).__name__}: {error}", has_report=(path / REPORT).is_file())


def readable(where: str, run: RunFolder) -> Entry:
    """What is said of a run that can be read."""
    material = Material.of(run)
    if not material.rows:
        raise ScenarioError("holds no rows yet: the run was stopped before its first point; --resume goes on with it")
    lines = head(material.verdicts)["order"]
    done, planned = len({row.point for row in material.rows}), len(set(material.planned))
    points = f"{done} of {planned}" if planned > done else str(done)
    measured = f"; measured on {', '.join(material.measured_targets)}" if material.measured_targets else ""
    return Entry(
        where,
        str(material.scenario.get("name") or run.path.parent.name),
        ", ".join(dict.fromkeys(row.model for row in material.rows)),
        str(material.environment.get("started") or run.path.name)[:19],
        f"predicted for {material.target}{measured}",
        points,
        lines[0].lead if lines else "",
        has_report=(run.path / REPORT).is_file(),
    )


def render(folder: Path, entries: Sequence[Entry]) -> str:
    """The page."""
    page = environment()
    broken = [one for one in entries if one.broken]
    whole = [one for one in entries if not one.broken]
    title = folder.resolve().name
    return page.get_template("index.html.j2").render(title=title, whole=whole, broken=broken, colours=colour_variables())
