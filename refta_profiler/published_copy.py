"""A published copy of a run holds the table of its rows and not the files that they are from: these made anew, to go on with. No torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from refta_profiler.results import TRAINING_METRICS, Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.same_measurements import MEASURED, TRAINED
from refta_profiler.whole_files import writing

DRYRUN = "dryrun"


def unpack(folder: RunFolder) -> None:
    """Nothing; from now on the folder has a point file for all rows of its table, where it had none: what it holds stands.

    All files appear at once: some of them alone would be taken for all that there is.
    """
    points = folder.path / "points"
    if any(points.glob("*.json")) or not (rows := folder.rows()):
        return
    beside = RunFolder(folder.path / ".unpacked")
    with writing(beside.path):
        shutil.rmtree(beside.path, ignore_errors=True)
        beside.path.mkdir()
        for (point, source), own in by_file(rows).items():
            beside.write_point(point, source, own)
        os.replace(beside.path / "points", points)  # which was empty, if there was one
        beside.path.rmdir()


def by_file(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by the point file that a run has them in, (point, source with its suffix).

    The dry run for a point's own target comes first, before those for devices that it was measured on (dryrun-cpu).
    """
    found: dict[tuple[str, str], list[Row]] = {}
    targets: dict[str, str] = {}
    for row in rows:
        source = row.source
        if source == DRYRUN and row.target != targets.setdefault(row.point, row.target):
            source = f"{DRYRUN}-{row.target}"
        elif source == MEASURED and row.metric in TRAINING_METRICS:
            source = TRAINED
        found.setdefault((row.point, source), []).append(row)
    return found
