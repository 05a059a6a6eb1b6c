"""What was measured for a point, taken over for one that is measured alike: the same step under another id. No torch."""

from __future__ import annotations

import json
from dataclasses import replace

from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import read_json, write_whole

MEASURED, TRAINED = "measured", "measured-task"  # a point's files of rows: of its steps, of its trainings


def take_over(folder: RunFolder, point_id: str, other_id: str) -> None:
    """Copy what one point's processes and trainings gave to another, which has none: answers, details, traces, rows. Both then have it.

    The first process's answer comes last but for the rows: a run that was stopped before it takes all over again, and rows are made
    from the answers whenever a run measures.
    """
    take_over_trainings(folder, point_id, other_id)
    if folder.process(other_id, 1) is not None or folder.read(other_id, MEASURED):
        return
    if details := folder.details(point_id):
        folder.write_details(other_id, details)
    for path in sorted((folder.path / "traces").glob(f"{point_id}.*")):
        write_whole(path.with_name(other_id + path.name.removeprefix(point_id)), path.read_bytes())
    for number in sorted(folder.processes(point_id), reverse=True):
        if content := folder.process(point_id, number):
            folder.write_process(other_id, number, content["asked"], content["answer"])
    if rows := folder.read(point_id, MEASURED):
        folder.write_point(other_id, MEASURED, [replace(row, point=other_id) for row in rows])


def take_over_trainings(folder: RunFolder, point_id: str, other_id: str) -> None:
    """Copy the training runs that the other point lacks, each whole, and its rows where it has none."""
    for path in sorted((folder.path / "training").glob(f"{point_id}.*.json")):
        copy = path.with_name(other_id + path.name.removeprefix(point_id))
        if not copy.exists():
            write_whole(copy, json.dumps(read_json(path) | {"point": other_id}))
    rows = folder.read(point_id, TRAINED)
    if rows and not folder.read(other_id, TRAINED):
        folder.write_point(other_id, TRAINED, [replace(row, point=other_id) for row in rows])
