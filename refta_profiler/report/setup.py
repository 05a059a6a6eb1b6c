"""The section on what is paid once or kept: set-up and how many steps repay it, the bytes of an adapter on disk, and merging."""

from collections.abc import Sequence
from dataclasses import replace

from refta_profiler.comparison import step_time
from refta_profiler.evidence import BY_TRUST, REFERENCES, Candidate
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Column, Section, Table, Text
from refta_profiler.report.tables import ABSENT, bytes_cell, count_cell, seconds_cell, text_cell
from refta_profiler.units import format_bytes, format_count, format_percent

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
ADAPTERS = 1000  # tasks served from one base model


def setup_section(material: Material) -> Section | None:
    """Set-up where it was measured, and disk for every method whose count is known."""
    blocks = [setup_table(material, target) for target in material.measured_targets if timed(material, target)]
    disk = disk_table(material)
    if not blocks and disk is None:
        return None
    lacking = [] if blocks else [Text("Set-up was not measured in this run.")]
    merging = [] if measured_merge(material) else [Text("Merging was not measured in this run.")]
    return Section("setup", "Set-up, disk and merging", [*lacking, *blocks, *([disk] if disk else []), *merging])


def timed(material: Material, target: str) -> list[Candidate]:
    """What has a measured set-up there, at the largest batch of each label."""
    found: dict[tuple, Candidate] = {}
    for one in set_up(material, target):
        key = one.label, replace(one.setting, batch=0)
        if key not in found or one.setting.batch > found[key].setting.batch:
            found[key] = one
    return list(found.values())


def set_up(material: Material, target: str) -> list[Candidate]:
    """What has a measured set-up there."""
    return [one for one in material.candidates(target) if one.value("setup_seconds", "measured") is not None]


def measured_merge(material: Material) -> bool:
    """Whether any row is of merging."""
    return any(row.metric.startswith("merge_") and row.value is not None for row in material.rows)


def setup_table(material: Material, target: str) -> Table:
    """Seconds and bytes of set-up, and after how many steps it is repaid against a reference."""
    members = timed(material, target)
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True), Column("set-up", "", "setup_seconds", True)]
    columns += [Column("peak of set-up", "MiB", "setup_peak_bytes", True), Column("step", "", "step_seconds", True)]
    columns += [Column("reference"), Column("repaid after steps", "", "repaid_steps", True), Column("merging", "", "merge_seconds", True)]
    pairs = [(one, reference(one, set_up(material, target))) for one in members]
    rows = [setup_row(material, one, other) for one, other in pairs]
    slowest = max(members, key=lambda one: one.value("setup_seconds", "measured") or 0.0)
    seconds = seconds_cell(slowest.value("setup_seconds", "measured")).text
    caption = f"What is paid once, on {target}: at most {seconds} (`{slowest.label}`). A set-up is repaid where it is longer than the "
    caption += "reference's and each step is shorter by more than the noise."
    if any(other and not judged(one, other) for one, other in pairs):
        caption += " A dash: a step's time has no noise floor, and is not judged."
    return Table(f"setup-{material.measured_targets.index(target)}", caption, columns, rows)


def reference(one: Candidate, members: Sequence[Candidate]) -> Candidate | None:
    """LoRA or PiSSA under the same setting; None for these themselves, and where the run has neither."""
    if one.method in (*REFERENCES, "head"):
        return None
    return next((other for other in members if other.setting == one.setting and other.method in REFERENCES), None)


def setup_row(material: Material, one: Candidate, other: Candidate | None) -> list[Cell]:
    """One method."""
    return [
        text_cell(one.label),
        text_cell(material.setting_words(one.setting)),
        count_cell(one.setting.batch),
        seconds_cell(one.value("setup_seconds", "measured")),
        bytes_cell(one.value("setup_peak_bytes", "measured")),
        seconds_cell(one.value("step_seconds", "measured")),
        text_cell(other.label) if other else ABSENT,
        repaid(one, other),
        seconds_cell(one.value("merge_seconds", "measured")),
    ]


def repaid(one: Candidate, other: Candidate | None) -> Cell:
    """Steps until the extra set-up is won back: 2 s more at 10 ms less a step is 200; 'never' where the step is not shorter.

    A dash where the step's time cannot be judged.
    """
    if other is None or not judged(one, other):
        return ABSENT
    extra, saved = (difference(one, other, metric) for metric in ("setup_seconds", "step_seconds"))
    if extra is None or saved is None:
        return ABSENT
    if extra <= 0:
        return Cell("at once", 0)
    fraction, noise, _ = step_time(one, other)
    return Cell("never", "never") if -(fraction or 0.0) <= noise else count_cell(-(-extra // -saved))


def judged(one: Candidate, other: Candidate) -> bool:
    """Whether the difference of their measured step times may be told: a noise floor of it is known."""
    known = any(member.value("noise_fraction", "measured") is not None for member in (one, other))
    return known and step_time(one, other)[2] == "measured"


def difference(one: Candidate, other: Candidate, metric: str) -> float | None:
    """The measured metric of one less the other's; None where one is not known."""
    ours, theirs = (member.value(metric, "measured") for member in (one, other))
    return None if ours is None or theirs is None else ours - theirs


def disk_table(material: Material) -> Table | None:
    """Bytes of the trained numbers of one adapter and of a thousand, and of a file where one was written."""
    size = BYTES.get(str(material.scenario.get("adapter_dtype") or "float32"), 4)
    members: dict[str, Candidate] = {}
    for one in [one for target in dict.fromkeys([material.target, *material.measured_targets]) for one in material.candidates(target)]:
        if one.known("adapter_parameters"):
            members.setdefault(one.label, one)
    if not members:
        return None
    columns = [Column("method"), Column("trained numbers", "", "adapter_parameters", True)]
    columns += [Column("one adapter", "MiB", "adapter_bytes", True), Column(f"{ADAPTERS:,} adapters", "MiB", "adapters_bytes", True)]
    columns += [Column("file", "MiB", "adapter_file_bytes", True)]
    counts = {label: int(one.known("adapter_parameters") or 0) for label, one in members.items()}
    rows = [
        [
            text_cell(label),
            count_cell(counts[label]),
            bytes_cell(size * counts[label]),
            bytes_cell(size * counts[label] * ADAPTERS),
            bytes_cell(file_bytes(one)),
        ]
        for label, one in members.items()
    ]
    few, many = min(counts, key=lambda label: counts[label]), max(counts, key=lambda label: counts[label])
    share = format_percent(counts[few] / counts[many])
    caption = (
        f"What {format_count(ADAPTERS)} adapters of one base model take: from {format_bytes(size * counts[few] * ADAPTERS)} (`{few}`) to "
        f"{format_bytes(size * counts[many] * ADAPTERS)} (`{many}`), {share} of it. The trained numbers alone, {size} bytes each; a file "
        "has a header too, ReFTA's its initial factors and Φ, and a trained head comes on top."
    )
    return Table("disk", caption, columns, rows)


def file_bytes(one: Candidate) -> float | None:
    """The size of a file that was written, where a source has it."""
    return next((value for source in BY_TRUST if (value := one.value("adapter_file_bytes", source)) is not None), None)
