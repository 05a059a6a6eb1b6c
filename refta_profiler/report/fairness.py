"""The section on fairness: a method against LoRA and PiSSA at equal rank, parameters and cost, never merged."""

from collections.abc import Sequence

from refta_profiler.evidence import Candidate, Setting
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Column, Items, Section, Table
from refta_profiler.report.tables import ABSENT, bytes_cell, count_cell, difference_cell, gigaflop_cell, text_cell
from refta_profiler.units import format_percent
from refta_profiler.verdict import COMPARISONS, EQUAL, Verdict


def fairness_section(material: Material) -> Section | None:
    """A row a notion of fairness, subject and reference, at the batch that is looked closer at; those that the run lacks say so."""
    batch = material.notable_batch(material.target)
    found = [verdict for verdict in material.verdicts if verdict.kind == "method"]
    rows = [row for notion in COMPARISONS for row in notion_rows(material, [v for v in found if notion in v.comparison], notion, batch)]
    if not rows:
        return None
    names = ("equal in", "method", "reference", "setting")
    columns = [*(Column(name) for name in names), Column("ranks", "", "ranks", True), Column("parameters", "", "parameters", True)]
    columns += [Column("the reference's", "", "reference_parameters", True), Column("own step FLOPs", "GFLOP", "step_flops", True)]
    columns += [Column("the reference's", "GFLOP", "reference_step_flops", True), Column("peak", "MiB", "peak_bytes", True)]
    columns += [Column("memory", "", "memory_difference", True), Column("step time", "", "time_difference", True), Column("outcome")]
    caption = f"{words(found, batch)} Equal means within {format_percent(EQUAL)}; parameters and FLOPs are the adapters' own."
    missing = [verdict.sentence for verdict in found if not verdict.against]
    blocks = [Table("fairness", caption, columns, rows), *([Items(missing)] if missing else [])]
    return Section("fairness", "Three kinds of a fair comparison", blocks)


def words(found: Sequence[Verdict], batch: int | None) -> str:
    """The finding: in how many comparisons of each kind the method needs less memory."""
    parts = []
    for notion in COMPARISONS:
        known = [v for v in found if notion in v.comparison and v.batch == batch and v.memory_difference_fraction is not None]
        less = sum((verdict.memory_difference_fraction or 0) < 0 for verdict in known)
        parts.append(f"at {notion} {less} of {len(known)} need less memory" if known else f"at {notion} this run has no pair")
    return f"At batch {batch}, {'; '.join(parts)}."


def notion_rows(material: Material, found: Sequence[Verdict], notion: str, batch: int | None) -> list[list[Cell]]:
    """The rows of one notion."""
    name = notion.removeprefix("equal ")
    compared = [verdict for verdict in found if verdict.against and verdict.batch == batch]
    lacking = [[text_cell(name), text_cell(one.subject), *[ABSENT] * 10, NOT_RUN] for one in found if not one.against]
    return [pair_row(material, verdict, name) for verdict in compared] + lacking


NOT_RUN = Cell("not in this run", "not in this run", "unknown")


def pair_row(material: Material, verdict: Verdict, name: str) -> list[Cell]:
    """One pair with what it is equal in and what differs."""
    ours, theirs = (candidate(material, verdict, label) for label in (verdict.subject, verdict.against))
    place = ", ".join(material.setting_parts(verdict))
    ranks = f"{ours.rank or '–'} / {theirs.rank or '–'}"
    return [
        *(text_cell(text) for text in (name, verdict.subject, verdict.against, place)),
        Cell(ranks, ranks),
        *(count_cell(one.known("adapter_parameters")) for one in (ours, theirs)),
        *(gigaflop_cell(one.value("step_flops", "contraction")) for one in (ours, theirs)),
        bytes_cell(verdict.subject_bytes),
        difference_cell(verdict.memory_difference_fraction),
        difference_cell(verdict.time_difference_fraction),
        Cell(verdict.outcome, verdict.outcome, verdict.outcome),
    ]


def candidate(material: Material, verdict: Verdict, label: str) -> Candidate:
    """What is known of a label under the verdict's setting."""
    setting = Setting(verdict.model, verdict.seq or 0, verdict.precision, verdict.checkpointing, verdict.batch, verdict.parallel)
    return next(one for one in material.candidates(verdict.target) if (one.label, one.setting) == (label, setting))
