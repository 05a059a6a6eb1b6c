"""What the page answers "does it pay off at my batch?" from: every variant's step, thresholds, words; and a table of the run's batches."""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from refta_profiler.comparison import LAUNCHES, PAYS, ROOFLINE, SLOWER, SMALL
from refta_profiler.evidence import Candidate, Family, families, stem
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Column, Section, Table, Text
from refta_profiler.report.tables import bytes_cell, count_cell, difference_cell, text_cell
from refta_profiler.verdict import BOUNDS, COMPARISONS, EQUAL, EQUAL_STEP, REFERENCES
from refta_profiler.verdict_words import CONCLUSIONS, QUANTITIES

KEY = "at-my-batch"
LAST = 1024  # the largest batch that is offered, as `check` tries none beyond it
STEP = ("trainable_parameters", "memory", "workspace_bytes", "biased_workspace_bytes", "scratch", "rates", "first", "following")
NAMED = (
    "label",
    "method",
    "settings",
    "order",
    "rank",
    "seq",
    "precision",
    "checkpointing",
    "parallel",
    "targets",
    "adapter_parameters",
    "own_step_flops",
)
HOW = (
    "For any batch the page replays the allocations of each method's step and comes to the same bytes as a dry run there, which is what "
    "`check` answers from. Times are a roofline's."
)
BELOW = "At the batches of this run, as predicted or measured:"
WITHOUT = (
    "At the batches of this run alone: its folder holds no steps, which a page replays at any other. With FOLDER for this run's folder, "
    "`run FOLDER/scenario.yaml --resume FOLDER` adds them; `check --batch` answers for one batch."
)


def control_section(material: Material) -> Section | None:
    """The least peak by batch, for every function that ran in several orders; the page sets the control above it."""
    found = [one for one in families(material.candidates(material.target)) if len(ranked(one)) > 1]
    there = data(material) is not None
    if not found and not there:
        return None
    below = [Text(BELOW), winners_table(material, found)] if found else []
    return Section(KEY, "Does it pay off at my batch?", [Text(HOW if there else _without(material)), *below])


def _without(material: Material) -> str:
    """Why the page answers at the batches of the run alone: its steps' reasons, or that there are none."""
    reasons = dict.fromkeys(one["reason"] for one in material.steps if one["target"] == material.target and one.get("reason"))
    return f"At the batches of this run alone: {'; '.join(reasons)}." if reasons else WITHOUT


def ranked(family: Family) -> list[tuple[int, Candidate]]:
    """The members that have a peak, least first; of equal ones that with less work."""
    known = [(peak, member) for member in family.members if (peak := family.peak(member)) is not None and member.order]
    return sorted(known, key=lambda one: (one[0], one[1].value("step_flops", "dryrun") or 0))


def winners_table(material: Material, found: Sequence[Family]) -> Table:
    """A row a function, setting and batch: the winner, its peak, the next and by how much."""
    columns = [
        Column("winner"),
        Column("batch", numeric=True),
        Column("setting"),
        Column("peak", "MiB", "peak_bytes", True),
        Column("best other order", "", "runner_up"),
        Column("needs more", "MiB", "margin_bytes", True),
        Column("of its peak", "", "margin_fraction", True),
    ]
    rows = [winner_row(material, family) for family in found]
    kinds = sorted({f"{'measured' if one.source == 'measured' else 'predicted'}, {QUANTITIES[one.quantity]}" for one in found})
    caption = f"The order that needs the least memory at each batch of this run on {material.target} ({'; '.join(kinds)})."
    return Table("winners", caption, columns, rows, folded=len(rows) > 16)


def winner_row(material: Material, family: Family) -> list[Cell]:
    """One row."""
    (peak, best), (other_peak, other) = ranked(family)[:2]
    names = [text_cell(best.label), count_cell(best.setting.batch), text_cell(material.setting_words(best.setting)), bytes_cell(peak)]
    margin = other_peak - peak
    return [*names, text_cell(other.label), bytes_cell(margin), difference_cell(margin / other_peak)]


def data(material: Material) -> dict[str, Any] | None:
    """What the page computes from, as JSON takes it; None where the run holds no step that can be replayed.

    `steps` is compressed (zlib, base64): a list of the variants' steps in their order.
    """
    steps = [one for one in material.steps if one["target"] == material.target]
    if not any("following" in one for one in steps):
        return None
    packed = json.dumps([{name: one.get(name) for name in STEP} for one in steps], separators=(",", ":"))
    return {
        "model": steps[0]["model"],
        "text": "seq" in material.scenario,
        "target": material.target,
        "memory_bytes": material.memory_bytes,
        "batches": material.batches,
        "last": LAST,
        "rules": {
            "pays": PAYS,
            "small": SMALL,
            "slower": SLOWER,
            "roofline": ROOFLINE,
            "launches": LAUNCHES,
            "equal": EQUAL,
            "equalStep": EQUAL_STEP,
        },
        "references": REFERENCES,
        "bounds": BOUNDS,
        "comparisons": COMPARISONS,
        "conclusions": CONCLUSIONS,
        "quantities": QUANTITIES,
        "step": next((one["step"] for one in steps if one.get("step")), []),
        "noOption": sorted({name for one in steps for name in one["no_option"]}),
        "variants": [variant(one) for one in steps],
        "steps": base64.b64encode(zlib.compress(packed.encode(), 9)).decode(),
    }


def variant(entry: dict[str, Any]) -> dict[str, Any]:
    """One variant: its names, what it is equal to others in, or the reason why its step cannot be replayed."""
    named = {name: entry.get(name) for name in NAMED}
    # a label that does not name its order stands for what its settings say: two transforms are two functions; code of one's own says none
    settings = ", ".join(f"{name} {value}" for name, value in sorted((entry["settings"] or {}).items()) if value is not None)
    own = (stem(entry["label"], entry["order"]) or settings) if entry["order"] else entry["label"]
    return named | {"stem": own, "reason": entry.get("reason", "")}
