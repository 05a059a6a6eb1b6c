"""The section on steps that are spread over ranks: what one rank needs, what it sends, and who sends least."""

from __future__ import annotations

from collections.abc import Sequence

from refta_profiler import parallel
from refta_profiler.evidence import Candidate
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Column, Section, Table, Text
from refta_profiler.report.tables import bytes_cell, text_cell
from refta_profiler.units import format_bytes, significant

SENT = "communicated_bytes"
MEANING = (
    "Of a step that is spread over ranks every number of this report is one rank's, also batch, tokens and FLOPs; a measured peak is the "
    "largest rank's, a measured time the slowest rank's, so that what fits here fits the cluster. Bytes that are sent are counted by ring "
    "algorithms: 2(N−1)/N of what is all-reduced over N ranks, (N−1)/N of what is gathered, scattered or broadcast."
)


def ranks_section(material: Material) -> Section | None:
    """Peak and bytes sent of one rank, at the batch that is looked closer at; None where every step is one process's."""
    found = [one for one in material.candidates(material.target) if one.setting.parallel]
    batch = material.notable_batch(material.target)
    shown = [one for one in found if one.setting.batch == batch] or found
    if not shown:
        return None
    lines = [Text(words) for how in dict.fromkeys(one.setting.parallel for one in shown) if (words := least_words(shown, how))]
    return Section("ranks", "On several ranks", [Text(MEANING), *lines, table(material, shown)])


def least_words(found: Sequence[Candidate], how: str) -> str:
    """'DDP over 2 ranks: `refta/shared` sends 21 KiB a step, `lora` 7.4 times as much.'; '' where nothing is known."""
    first = next(one for one in found if one.setting.parallel == how)
    alike = [one for one in found if one.setting == first.setting and one.known(SENT) is not None]
    if not alike:
        return ""
    ordered = sorted(alike, key=lambda one: one.known(SENT) or 0)
    least = ordered[0].known(SENT) or 0
    others = [f"`{one.label}` {times(one.known(SENT) or 0, least)}" for one in ordered[1:]]
    return f"{parallel.words(how)}: `{ordered[0].label}` sends {format_bytes(least)} a step{''.join(f', {one}' for one in others)}."


def times(amount: float, least: float) -> str:
    """'as much', 'the same within 1%' or '7.4 times as much'."""
    if not least or amount == least:
        return "as much"
    return f"{significant(amount / least)} times as much"


def table(material: Material, found: Sequence[Candidate]) -> Table:
    """A row a label and setting: peak and bytes sent, predicted and measured, and of these the adapter's gradients alone."""
    columns = [
        Column("method"),
        Column("setting"),
        Column("batch of a rank", "", "batch", True),
        Column("peak of a rank, predicted", "MiB", "predicted_peak_bytes", True),
        Column("measured", "MiB", "measured_peak_bytes", True),
        Column("sent by a rank, predicted", "MiB", "predicted_communicated_bytes", True),
        Column("measured", "MiB", "measured_communicated_bytes", True),
        Column("of it the adapter's gradients", "MiB", "adapter_communicated_bytes", True),
    ]
    caption = f"One rank's peak memory, and the bytes that it sends in one step, on {material.target}."
    return Table("ranks", caption, columns, [row(material, one) for one in found])


def row(material: Material, one: Candidate) -> list[Cell]:
    """One row."""
    names = [text_cell(one.label), text_cell(material.setting_words(one.setting)), Cell(str(one.setting.batch), one.setting.batch)]
    peaks = [bytes_cell(one.value("peak_allocated_bytes", source)) for source in ("dryrun", "measured")]
    return [*names, *peaks, *(bytes_cell(one.value(SENT, source)) for source in ("dryrun", "measured", "contraction"))]
