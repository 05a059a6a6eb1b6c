"""Several runs in one report: their rows side by side, a device at a time, so that unlike devices are never compared with each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from refta_profiler import results
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import setting_of
from refta_profiler.report import accuracy, cost, fairness, memory, recipe, record, task, time, tokens
from refta_profiler.report.cards import cards_section
from refta_profiler.report.document import cards, facts, styles
from refta_profiler.report.look import Look
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Block, Card, Code, Column, Document, Figure, Section, Table
from refta_profiler.report.record import flat
from refta_profiler.report.tables import ABSENT, count_cell, text_cell
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import write_whole

OF_A_DEVICE = (
    memory.peaks_section,
    tokens.tokens_section,
    memory.categories_section,
    cards_section,
    fairness.fairness_section,
    time.time_section,
)
OF_ALL = (accuracy.accuracy_section, cost.parameters_section, record.failures_section, record.notes_section)


@dataclass(frozen=True)
class Named:
    """A run under the name that it has in the report."""

    name: str
    material: Material


def named(runs: Sequence[RunFolder]) -> list[Named]:
    """The runs under their scenarios' names, with the folder's name where two have the same."""
    found = [Material.of(run) for run in runs]
    names = [str(one.scenario.get("name") or run.path.name) for one, run in zip(found, runs, strict=True)]
    longer = [f"{name} {run.path.name}" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]
    twice = [f"{name} ({number})" if longer.count(name) > 1 else name for number, name in enumerate(longer, start=1)]
    return [Named(name, one) for name, one in zip(twice, found, strict=True)]


def merged(runs: Sequence[Named]) -> list[Row]:
    """The rows of all runs, a cell that says the same in several kept once; where it does not, the label is followed by the run's name."""
    disputed = {label for label in {row.label for run in runs for row in run.material.rows} if differs(runs, label)}
    found: dict[tuple[Any, ...], Row] = {}
    for number, run in enumerate(runs, start=1):
        for row in run.material.rows:
            own = replace(row, label=f"{row.label} ({run.name})", point=f"{row.point}.{number}") if row.label in disputed else row
            found.setdefault(own.cell, own)
    return list(found.values())


def differs(runs: Sequence[Named], label: str) -> bool:
    """Whether two runs have different numbers for one thing under that label."""
    seen: dict[tuple[Any, ...], tuple[int | float | None, str]] = {}
    return any(
        seen.setdefault(row.cell, (row.value, row.status)) != (row.value, row.status)
        for run in runs
        for row in run.material.rows
        if row.label == label
    )


def document(runs: Sequence[Named], look: Look | None = None) -> Document:
    """The report: each run's own verdicts, then every device by itself, then what holds for all."""
    look = look or Look()
    rows = merged(runs)
    whole = Material(rows, yaml.safe_dump({"target": runs[0].material.target}))
    sections = [runs_section(runs), *task_sections(runs), *device_sections(rows), *(section for make in OF_ALL if (section := make(whole)))]
    sections += [*recipe_sections(runs), environments_section(runs), scenarios_section(runs)]
    found = [replace(card, key=f"{card.key}-{number}") for number, run in enumerate(runs, start=1) for card in own_cards(run)]
    title = ", ".join(run.name for run in runs)
    shown = [("runs", str(len(runs))), *(fact for fact in facts(whole) if fact[0] in ("model", "batches", "points"))]
    return Document(title, shown, found, sections, look.styles(styles(whole, sections)), settings=look.settings)


def own_cards(run: Named) -> list[Card]:
    """The run's verdicts on order and method, under its name and the device that they are for."""
    where = f"{run.name}, {run.material.target}"
    return [replace(card, title=f"{card.title}: {where}") for card in cards(run.material) if card.key != "task"]


def device_sections(rows: Sequence[Row]) -> Iterator[Section]:
    """The sections of every device, from its rows alone."""
    targets = list(dict.fromkeys(row.target for row in rows if row.source != "contraction"))
    for number, target in enumerate(targets, start=1):
        material = Material(rows_of(rows, target), yaml.safe_dump({"target": target}))
        for make in OF_A_DEVICE:
            if section := make(material):
                yield set_apart(section, f"d{number}", f"on {target}")


def rows_of(rows: Sequence[Row], target: str) -> list[Row]:
    """The device's rows, and the closed form of what ran there, which holds on every device and is stored under the one predicted for."""
    there = {(setting_of(row), row.label) for row in rows if row.target == target}
    return [row for row in rows if row.target == target or (row.source == "contraction" and (setting_of(row), row.label) in there)]


def recipe_sections(runs: Sequence[Named]) -> Iterator[Section]:
    """Every run's recipe."""
    for number, run in enumerate(runs, start=1):
        if section := recipe.recipe_section(run.material):
            yield set_apart(section, f"r{number}", f"of {run.name}")


def task_sections(runs: Sequence[Named]) -> Iterator[Section]:
    """Every run's section on its task."""
    for number, run in enumerate(runs, start=1):
        if section := task.task_section(run.material):
            yield set_apart(section, f"t{number}", f"({run.name})")


def set_apart(section: Section, mark: str, words: str) -> Section:
    """The section, its tables and figures with keys that no other device's or run's have, and a title that says whose it is."""
    blocks: list[Block] = [
        replace(block, key=f"{block.key}-{mark}") if isinstance(block, Figure | Table) else block for block in section.blocks
    ]
    return replace(section, key=f"{section.key}-{mark}", title=f"{section.title} {words}", blocks=blocks)


def runs_section(runs: Sequence[Named]) -> Section:
    """What each run is."""
    columns = [Column("run"), Column("model"), Column("predicted for"), Column("measured on"), Column("started"), Column("commit")]
    columns += [Column("points", "", "points", True), Column("folder")]
    rows = []
    for run in runs:
        found = run.material
        models = ", ".join(dict.fromkeys(row.model for row in found.rows))
        texts = (run.name, models, found.target, ", ".join(found.measured_targets), found.environment.get("started"))
        commit = str(found.environment.get("commit") or "")[:12]
        points = count_cell(len({row.point for row in found.rows}))
        rows.append([*(text_cell(text) for text in (*texts, commit)), points, text_cell(found.path)])
    caption = f"The {len(runs)} runs of this report. Numbers of one device are never compared with another's."
    return Section("runs", "The runs", [Table("runs", caption, columns, rows)])


def environments_section(runs: Sequence[Named]) -> Section:
    """What each run ran on and with, side by side; what differs comes first."""
    found = {run.name: {name: str(value) for name, value in flat(run.material.environment) if value not in (None, "")} for run in runs}
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    unlike = [name for name in names if len({values.get(name) for values in found.values()}) > 1]
    rows = [
        [text_cell(name), *(text_cell(values.get(name)) if name in values else ABSENT for values in found.values())]
        for name in [*unlike, *(name for name in names if name not in unlike)]
    ]
    stands = f"{len(unlike)} of {len(names)} differ, and stand first" if unlike else "nothing differs"
    caption = f"What the runs ran on and with: {stands}."
    return Section("environments", "Environments", [Table("environments", caption, [Column("what"), *map(Column, found)], rows)])


def scenarios_section(runs: Sequence[Named]) -> Section:
    """Every run's scenario."""
    return Section("scenarios", "The scenarios", [Code(run.material.scenario_text, run.name) for run in runs])


def folder(runs: Sequence[Named], out: Path) -> RunFolder:
    """The folder of the joint report, with all rows in its results.csv; a ScenarioError where it holds a run already."""
    place = out / "scenario.yaml"
    if place.exists() and "runs" not in (yaml.safe_load(place.read_text(encoding="utf-8")) or {}):
        raise ScenarioError(f"--out {out}: holds a run already; give a folder of its own for the report of several")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ScenarioError(f"--out {out}: no folder can be made there ({fault.strerror}); give one that can be written to") from fault
    rows = merged(runs)
    content = {"name": out.resolve().name, "target": runs[0].material.target, "runs": [run.material.path for run in runs]}
    write_whole(place, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    write_whole(out / "results.csv", results.to_csv(rows))
    return RunFolder(out)
