"""The page on the paper's printed numbers: reproduced, reproduced only under named settings, or not. From formulas and the run's rows.

A scenario gets it whose name starts with "claims" (scenarios/claims/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refta import registry
from refta.network import count_trainable
from refta.shapes import StackShape
from refta_profiler.causes import PEAK, PEAK_PARTS, causes
from refta_profiler.evidence import Candidate, Family, comparable
from refta_profiler.report.claims_accuracy import accuracy_items
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Block, Cell, Column, Items, Section, Table, Text
from refta_profiler.report.printed import ACCURACIES, COUNTS, MEMORY, SAVINGS, Model, PrintedAccuracy, PrintedCount, PrintedSaving
from refta_profiler.report.tables import bytes_cell, count_cell, difference_cell, text_cell
from refta_profiler.units import format_bytes, format_count, format_percent
from refta_profiler.verdict_words import listing

NO_TENSORS = ("head", "full", "refta", "lora", "pissa", "dora", "vera", "peft")
OURS = "refta"
REPRODUCED, ONLY, NOT = "reproduced", "reproduced only", "not reproduced"


def claims_section(material: Material) -> Section | None:
    """The printed numbers, each with what becomes of it; None for a scenario that is not about them."""
    if not str(material.scenario.get("name", "")).startswith("claims"):
        return None
    blocks: list[Block] = [Text("What is in print, and what becomes of it here.")]
    blocks += [Items([*headline(), *accuracy_items(material), *(saving_words(one) for one in SAVINGS)]), counts_table(material)]
    return Section("claims", "The paper's numbers", [*blocks, *memory_blocks(material)])


# ---- parameters


def counted(model: Model, method: str, settings: dict[str, Any], roles: Sequence[str] = ("query", "value")) -> int:
    """Numbers trained, by the method's network; ViT-L ReFTA R=15: 61,470."""
    widths = {"down": (model.width, 4 * model.width), "up": (4 * model.width, model.width)}
    networks = []
    for role in roles:
        rows, columns = widths.get(role, (model.width, model.width))
        shape = StackShape(role, role, model.layers, rows, columns, stacks=len(roles), head_size=model.head_size)
        networks.append((registry.method(method).network(registry.settings(method, settings), shape), model.layers))
    return count_trainable(networks)


def biases(model: Model) -> int:
    """Biases of the query and value layers, which some printed counts include: ViT-L 49,152."""
    return 2 * model.layers * model.width


def convention(one: PrintedCount) -> tuple[str, str]:
    """Whether the printed count is reproduced, and under which convention."""
    count = counted(one.model, one.method, one.settings, one.roles)
    for total, words in ((count, "adapted biases not counted"), (count + biases(one.model), "adapted biases counted")):
        if one.least <= total < one.least + one.step:
            return REPRODUCED, "biases are part of the method" if one.method == OURS else words
    return NOT, f"the formula gives {format_count(count)}"


def counts_table(material: Material) -> Table:
    """Every printed count beside the formula's, with the convention that gives it, and beside this run's own count where it has one."""
    columns = [Column("model"), Column("method"), Column("in print"), Column("by formula", "", "formula", True)]
    columns += [Column("with adapted biases", "", "with_biases", True), Column("in this run", "", "run", True)]
    columns += [Column("finding"), Column("convention")]
    rows = []
    for one in COUNTS:
        count = counted(one.model, one.method, one.settings, one.roles)
        status, how = convention(one)
        settings = ", ".join(f"{key} {value}" for key, value in one.settings.items())
        own = None if one.method == OURS else count + biases(one.model)
        cells = [
            text_cell(one.model.name),
            text_cell(f"{one.method} ({settings})"),
            text_cell(one.text),
            count_cell(count),
            count_cell(own),
        ]
        rows.append([*cells, count_cell(in_run(material, one)), text_cell(status), text_cell(how)])
    return Table("claims-counts", "Printed numbers of trained parameters, and the count that gives each.", columns, rows)


def in_run(material: Material, one: PrintedCount) -> int | None:
    """The adapter's count in this run's rows, where the run has that model, method and rank."""
    rank = one.settings.get("rank")
    rows = [row for row in material.rows if (row.model, row.method, row.metric) == (one.model.name, one.method, "adapter_parameters")]
    return next((int(row.value) for row in rows if row.value is not None and (rank is None or row.rank == rank)), None)


def saving_words(one: PrintedSaving) -> str:
    """A printed percentage of fewer parameters beside the exact ones, with and without adapted biases."""
    ours = counted(one.model, OURS, {"rank": one.rank})
    theirs = counted(one.model, one.against, one.against_settings)
    exact = {f"{'with' if extra else 'without'} adapted biases": 1 - ours / (theirs + extra) for extra in (0, biases(one.model))}
    hits = [words for words, fraction in exact.items() if abs(100 * fraction - one.percent) < 0.05]
    found = listing([f"{100 * fraction:.1f}% {words}" for words, fraction in exact.items()])
    rounded = 1 - int(ours / 1000) / int((theirs + biases(one.model)) / 1000)
    counts = f"{format_count(ours)} against {format_count(theirs)}"
    settings = f"{one.against} of rank {one.against_settings['rank']} on {one.model.name} ({counts})"
    finding = f"{REPRODUCED}, {listing(hits)}" if hits else NOT
    if not hits and abs(100 * rounded - one.percent) < 0.05:
        finding = f"{ONLY} from the counts as printed, adapted biases included and cut to thousands ({100 * rounded:.1f}%)"
    return f"“{one.text}” ({one.where}), taken as against {settings}: {found}: {finding}."


def headline() -> list[str]:
    """The article's headline for what it is, and the same table's other rows."""
    return [headline_words(one) for one in ACCURACIES if one.method in ("lora", "pissa")]


def headline_words(one: PrintedAccuracy) -> str:
    """'96.1% fewer parameters and 5.68 points are one row: vit-large against lora of rank 16 …'"""
    ours = next(other for other in ACCURACIES if other.model is one.model and other.method == OURS)
    count, theirs = counted(one.model, OURS, {"rank": ours.rank}), counted(one.model, one.method, {"rank": one.rank})
    points = f"{ours.accuracy - one.accuracy:+.2f} points ({ours.accuracy} against {one.accuracy}, as printed)"
    counts = f"{format_count(count)} against {format_count(theirs)}, adapted biases not counted"
    fewer = f"{100 * (1 - count / theirs):.1f}% fewer parameters ({counts})"
    is_headline = one.model.name == "vit-large" and one.method == "lora"
    headline = "The headline, “more than 5% better than LoRA with about 96% fewer parameters”, is one row: "
    lead = headline if is_headline else "By the same table, "
    return f"{lead}{one.model.name}, ReFTA of rank {ours.rank} against {one.method} of rank {one.rank}: {points}, {fewer}."


# ---- memory


@dataclass(frozen=True)
class Comparison:
    """ReFTA against a tensor-based baseline at one setting; fraction is ReFTA's peak over the other's, less 1."""

    ours: Candidate
    other: Candidate
    family: Family

    @property
    def fraction(self) -> float:
        """The difference of the peaks as a fraction of the baseline's."""
        return (self.family.peak(self.ours) or 0) / (self.family.peak(self.other) or 1) - 1

    @property
    def holds(self) -> bool:
        """Whether the peak is more than 30% lower."""
        return self.fraction < -MEMORY


def comparisons(material: Material) -> list[Comparison]:
    """Every order of ReFTA against every tensor-based baseline at every setting where both have a peak."""
    found = material.candidates(material.target)
    tensors = [other for other in found if other.method not in NO_TENSORS]
    pairs = [(one, other) for one in found for other in tensors if one.method == OURS and one.setting == other.setting]
    compared = [Comparison(one, other, comparable([one, other])) for one, other in pairs]
    return [one for one in compared if one.family.peak(one.ours) and one.family.peak(one.other)]


def memory_blocks(material: Material) -> list[Block]:
    """The 30% claim: how often it holds, where it holds most and where least, why, and all comparisons."""
    found = comparisons(material)
    if not found:
        return [Text("The memory claim cannot be judged: this run has no tensor-based baseline whose peak is known.")]
    return [Items(memory_words(material, found)), memory_table(material, found)]


def memory_words(material: Material, found: Sequence[Comparison]) -> list[str]:
    """The finding in sentences."""
    holding = [one for one in found if one.holds]
    status = REPRODUCED if len(holding) == len(found) else ONLY if holding else NOT
    model, count = found[0].ours.setting.model, f"it holds in {len(holding)} of {len(found)} comparisons"
    under = " under the settings below that say so" if status == ONLY else ""
    best, worst = min(found, key=lambda one: one.fraction), max(found, key=lambda one: one.fraction)
    by_method = {one.other.label: [other.holds for other in found if other.other.label == one.other.label] for one in found}
    sentences = [f"“Over 30% lower peak memory than tensor-based baselines on RTE” (abstract), asked of {model}: {count}: {status}{under}."]
    sentences += [f"It holds {case_words(material, best)}"] if best.holds else []
    sentences += [f"It does not hold {case_words(material, worst)}"] if not worst.holds else []
    return [*sentences, f"By baseline, it holds {holds_words(by_method)}."]


def setting_of(material: Material, one: Comparison) -> str:
    """The setting of a comparison in words."""
    return f"{material.setting_words(one.ours.setting)}, batch {one.ours.setting.batch}"


def holds_words(by_method: dict[str, list[bool]]) -> str:
    """'against `a` at every setting; against `b` in 3 of 12 settings; never against `c`'"""
    always = [f"`{label}`" for label, flags in by_method.items() if all(flags)]
    sometimes = [f"`{label}` in {sum(flags)} of {len(flags)}" for label, flags in by_method.items() if any(flags) and not all(flags)]
    never = [f"`{label}`" for label, flags in by_method.items() if not any(flags)]
    parts = [f"against {listing(always)} at every setting"] if always else []
    parts += [f"against {listing(sometimes)} settings"] if sometimes else []
    parts += [f"never against {listing(never)}"] if never else []
    return "; ".join(parts)


def case_words(material: Material, one: Comparison) -> str:
    """A comparison with its numbers and its largest causes."""
    ours, other = one.family.peak(one.ours) or 0, one.family.peak(one.other) or 0
    percent = format_percent(abs(one.fraction))
    difference = f"{percent} {'lower' if one.fraction < 0 else 'higher'}, {format_bytes(ours)} against {format_bytes(other)}"
    return f"for `{one.ours.label}` against `{one.other.label}` at {setting_of(material, one)}: {difference}. {why_words(one)}"


def why_words(one: Comparison) -> str:
    """The largest parts of what the baseline needs more."""
    ours, other = predicted(one.ours), predicted(one.other)
    if PEAK not in ours or PEAK not in other:
        return ""
    parts = causes(ours, other, PEAK, PEAK_PARTS)[:2]
    if not parts:
        return "No part of the two peaks differs."
    words = listing([f"{part.name} ({'+' if part.difference > 0 else '-'}{format_bytes(abs(part.difference))})" for part in parts])
    shared = ours.get("peak_weights_bytes", 0) + ours.get("peak_activations_bytes", 0)
    return f"Why: the baseline differs by {words}, where weights and activations are {format_bytes(shared)} for ReFTA too."


def predicted(one: Candidate) -> dict[str, float]:
    """The numbers of a candidate from the dry run."""
    return {metric: row.value for (source, metric), row in one.rows.items() if source == "dryrun" and row.value is not None}


def memory_table(material: Material, found: Sequence[Comparison]) -> Table:
    """All comparisons with their peaks."""
    columns = [Column("ReFTA"), Column("baseline"), Column("setting"), Column("batch", "", "batch", True)]
    columns += [Column("ReFTA's peak", "MiB", "ours", True), Column("baseline's peak", "MiB", "baseline", True)]
    columns += [Column("difference", "", "difference", True), Column("30% lower")]
    rows: list[list[Cell]] = []
    for one in found:
        setting = one.ours.setting
        named = [
            text_cell(one.ours.label),
            text_cell(one.other.label),
            text_cell(material.setting_words(setting)),
            count_cell(setting.batch),
        ]
        peaks = [bytes_cell(one.family.peak(one.ours)), bytes_cell(one.family.peak(one.other)), difference_cell(one.fraction)]
        rows.append([*named, *peaks, text_cell("holds" if one.holds else "does not hold")])
    return Table(
        "claims-memory", "Peak memory of a training step against every tensor-based baseline of this run.", columns, rows, folded=True
    )
