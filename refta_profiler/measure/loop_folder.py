"""The run folder that a profiled loop writes when it ends, beside those of earlier profiles, for `report` to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refta_profiler import sessions
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import setting_of
from refta_profiler.measure import environment
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario_yaml import write as write_yaml
from refta_profiler.whole_files import write_whole

if TYPE_CHECKING:
    from refta_profiler.measure.loop import profile

HEAD = "# Measured within a training loop by refta_profiler.profile: that loop, not this file, is what can be run again.\n"
MEASURED = ("step_seconds", "peak_allocated_bytes")  # a loop without either broke off: where its label stood for one that has, that stays
PATIENCE_S = 30.0  # for another loop that ends at the same time and writes its rows, which takes moments


def check(folder: str | Path | None) -> None:
    """Nothing; a ScenarioError where the folder holds something else than earlier profiles."""
    if folder is None or not Path(folder).exists() or _is_free(Path(folder)):
        return
    scenario = Path(folder) / "scenario.yaml"
    if not scenario.is_file() or not scenario.read_text(encoding="utf-8").startswith(HEAD):
        raise ScenarioError(f"profile: folder={folder}: holds something else than earlier profiles; give a new folder, or theirs")


def _is_free(path: Path) -> bool:
    """Whether it is a folder with nothing in it but what a process that was killed leaves before its first file is whole."""
    return path.is_dir() and all(one.name == ".lock" or one.match(".scenario.yaml.*.tmp") for one in path.iterdir())


def write(one: profile, path: Path) -> RunFolder:
    """The run folder with these rows in it beside those of other labels; what is measured again under a label and setting replaces that.

    Another process that writes there is waited for; a ScenarioError where it holds the folder for longer than half a minute.
    """
    check(path)
    point, found = one.rows[0].point, one.environment or environment.describe(str(one.instruments.device))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ScenarioError(f"profile: folder={path}: cannot be made ({fault.strerror}); give one that can be written to") from fault
    folder = RunFolder(path)
    with folder.lock(patience_s=PATIENCE_S):
        check(path)  # another process may have begun there since
        if not (path / "scenario.yaml").exists():
            write_whole(path / "scenario.yaml", HEAD + write_yaml({"name": path.resolve().name, "target": one.rows[0].target}))
        rivals = [planned for planned in folder.planned() if is_rival(folder, planned, one.rows[0])]
        counts = is_measured(one.rows) or not any(is_measured(folder.read(other, "measured")) for other in {point, *rivals})
        if counts:
            folder.order(list(dict.fromkeys([*(planned for planned in folder.planned() if planned not in rivals), point])))
        told = sessions.ended(sessions.begun(folder.environment(), found), {"profiled loop": 1})
        told[-1]["label"] = one.label
        folder.session = len(told)
        folder.write_environment({**found, **{name: told[-1][name] for name in sessions.ENDED}, sessions.KEY: told})
        if counts:
            folder.write_details(point, details(one) | {"environment": found})
            folder.write_point(point, "measured", one.rows)
        folder.write_table()
    return folder


def is_measured(rows: Sequence[Row]) -> bool:
    """Whether a loop came so far that something of a step was measured."""
    return any(row.value is not None for row in rows if row.metric in MEASURED)


def is_rival(folder: RunFolder, planned: str, row: Row) -> bool:
    """Whether that point was another loop under the row's label and setting, as with another rank: a label stands for one."""
    there = folder.read(planned, "measured")
    return planned != row.point and bool(there) and (there[0].label, setting_of(there[0])) == (row.label, setting_of(row))


def details(one: profile) -> dict[str, object]:
    """Raw samples, loads, and (examples, tokens) of every forward of every step, by what the step was for."""
    shapes = {kind or "warmup": steps for kind, steps in one.found.steps_of.items()}
    return {"samples": one.found.samples, "loads": one.found.loads, "shapes": shapes}
