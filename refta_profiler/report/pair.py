"""The two points that are looked into: the decisive method and its opponent, at the batch to look closer at, where instruments ran."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from refta_profiler.evidence import Candidate, Setting
from refta_profiler.headline import middle
from refta_profiler.report.material import Material


@dataclass(frozen=True)
class Looked:
    """One of the two: its label and setting, the device that it was measured on, and what an instrument said."""

    label: str
    setting: Setting
    target: str
    found: Any


def looked_into(material: Material, name: str) -> list[Looked]:
    """The decisive label and its opponent under one setting, with what the instrument `name` said; one where the other has nothing.

    The batch is the middle one of those measured, or the nearest to it that has details. Details are read of these points alone.
    """
    for target in material.measured_targets:
        members = [member for member in material.candidates(target) if measured_id(member)]
        for labels in pairs(material):
            for batch in from_the_middle(sorted({member.setting.batch for member in members if member.label in labels})):
                found = at_batch(material, [member for member in members if member.setting.batch == batch], labels, name)
                if found:
                    return [Looked(member.label, member.setting, target, content) for member, content in found]
    return []


def pairs(material: Material) -> Iterator[tuple[str, ...]]:
    """The labels of the decisive comparisons, of orders first; then all labels, where none of these was looked into."""
    for kind in ("order", "method"):
        for verdict in material.verdicts:
            if verdict.kind == kind and verdict.decisive and verdict.against:
                yield verdict.subject, verdict.against
                break
    yield from ((label,) for label in material.labels)


def from_the_middle(batches: list[int]) -> list[int]:
    """The batches, the middle one first: 2, 4, 1 and 8 of 1, 2, 4, 8."""
    if not batches:
        return []
    place = batches.index(middle(batches))
    return sorted(batches, key=lambda batch: (abs(batches.index(batch) - place), -batch))


def at_batch(material: Material, members: list[Candidate], labels: tuple[str, ...], name: str) -> list[tuple[Candidate, Any]]:
    """The members of those labels that have what the instrument said, under the first setting that most of them have it in."""
    by_setting: dict[Setting, list[tuple[Candidate, Any]]] = {}
    for label in labels:
        for member in members:
            content = material.details(measured_id(member) or "").get(name) if member.label == label else None
            if content and not is_failure(content):
                by_setting.setdefault(member.setting, []).append((member, content))
    return max(by_setting.values(), key=len, default=[])


def is_failure(content: Any) -> bool:
    """Whether an instrument said only why it could say nothing: {reason, status}, or {reason} in older runs."""
    return isinstance(content, dict) and "reason" in content and set(content) <= {"reason", "status"}


def measured_id(member: Candidate) -> str | None:
    """The id of the member's point where it was measured."""
    row = member.rows.get(("measured", "peak_allocated_bytes"))
    return row.point if row and row.status == "ok" else None


def place_words(material: Material, found: Sequence[Looked]) -> str:
    """'at batch 2 on cpu (fp32, without checkpointing)'."""
    first = found[0]
    return f"at batch {first.setting.batch} on {first.target} ({material.setting_words(first.setting)})"
