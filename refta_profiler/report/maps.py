"""The section of maps: which order is least at every batch, rank and sequence by the closed form, with what the run found laid over it."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from refta_profiler.report.material import Material
from refta_profiler.report.parts import Block, Figure, Map, Section, Text
from refta_profiler.results import Row

TITLES = {
    "memory_bytes": "least memory",
    "memory_bytes without recomputation": "least memory, no recomputation",
    "step_flops": "fewest training FLOPs",
}
AXES = {"rank": "rank", "seq": "tokens of an example"}
SAME = 1.01  # orders within 1% of the least are the same to the verdicts, and to the count of agreements


def maps_section(material: Material) -> Section | None:
    """A figure for each method and pair of axes; nothing where no method was run in several orders."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in (entry["map"] for entry in material.closed_form if "map" in entry):
        groups.setdefault((entry["model"], entry["method"], *sorted(entry["labels"].values()), entry["y"]), []).append(entry)
    if not groups:
        return None
    note = (
        "Memory here is what the adapters keep for backward and their largest temporary, beyond the frozen model, from the contractions "
        "alone. Marks are this run's whole steps without checkpointing, in the colour of the order that is least there: open where it "
        "is predicted, filled where it was measured. They are of one precision, the run's first, and of one process where it has that. "
        "Maps without recomputation compare as the paper does."
    )
    blocks: list[Block] = [Text(note)]
    blocks += [figure(f"map-{number}", entries, material) for number, entries in enumerate(groups.values(), start=1)]
    return Section("maps", "Where each order wins", blocks)


def figure(key: str, entries: Sequence[dict[str, Any]], material: Material) -> Figure:
    """The maps of one method over one pair of axes."""
    first, panels, agreed, counted = entries[0], [], 0, 0
    for entry in entries:
        found = list(points(entry, material.rows))
        also = (float(entry["seq"]), "tokens of a step") if entry["y"] == "rank" and entry.get("seq") else None
        panels.append(Map(TITLES[entry["quantity"]], "batch", AXES[entry["y"]], regions(entry), [mark for mark, _ in found], also))
        agreed, counted = agreed + sum(agrees for _, agrees in found), counted + len(found)
    fixed = f"rank {first['rank']}" if first["y"] == "seq" else f"{first['seq']} tokens an example"
    fixed = "" if fixed == "rank None" else f", at {fixed}"
    caption = f"The order of `{first['method']}` that is least, by batch and {AXES[first['y']]}{fixed}. {words(first)}"
    if counted:
        caption += f" The closed form names the order of the least whole step, or one within 1% of it, at {agreed} of {counted} marks."
    return Figure(key, caption, caption, panels)


def regions(entry: dict[str, Any]) -> list[tuple[float, float, float, float, str]]:
    """The stretches as rectangles, each row reaching half way to its neighbours on the logarithmic axis."""
    values = [value for value, _ in entry["rows"]]
    middles = [math.sqrt(one * other) for one, other in pairwise(values)]
    edges = [values[0] * 0.8, *middles, values[-1] * 1.1]
    return [
        (low, high, edges[place], edges[place + 1], entry["labels"][order])
        for place, (_, stretches) in enumerate(entry["rows"])
        for low, high, order in stretches
    ]


def words(entry: dict[str, Any]) -> str:
    """The row of the scenario's own rank or sequence: 'At rank 15, least memory: `shared` up to batch 6, then `reconstruct_recompute`.'"""
    value, stretches = next(row for row in entry["rows"] if row[0] == entry["at"])
    where = f"At rank {value}" if entry["y"] == "rank" else f"At {value:,} tokens an example"
    if len(stretches) == 1:
        return f"{where}, {TITLES[entry['quantity']]}: `{stretches[0][2]}` at every batch."
    parts = [f"`{order}` up to batch {int(high):,}" for _, high, order in stretches[:-1]]
    return f"{where}, {TITLES[entry['quantity']]}: {', then '.join(parts)}, then `{stretches[-1][2]}`."


def points(entry: dict[str, Any], rows: Sequence[Row]) -> Iterator[tuple[tuple[float, float, str, bool], bool]]:
    """The run's own winners where it has all of the map's orders: (batch, y, label, measured), and whether the map agrees."""
    whole = cells(entry, rows)
    best = {(batch, y): (batch, y, source, target) for batch, y, source, target in sorted(whole, key=lambda key: key[2] == "measured")}
    for (batch, y), key in best.items():
        values = whole[key]
        winner = min(values, key=lambda order: values[order])
        named = named_at(entry, batch, y)
        yield (batch, y, entry["labels"][winner], key[2] == "measured"), named is not None and values[named] <= SAME * values[winner]


def cells(entry: dict[str, Any], rows: Sequence[Row]) -> dict[tuple[int, int, str, str], dict[str, float]]:
    """What every order of the map needs, by (batch, y, source, target), where none of them is missing.

    All of one precision and one `parallel`: of those that have any, one process goes before ranks, then what the rows have first.
    """
    metric = "step_flops" if entry["quantity"] == "step_flops" else "peak_allocated_bytes"
    orders = [order for order in entry["labels"] if "without" not in entry["quantity"] or "recompute" not in order]
    found: dict[tuple[str, str], dict[tuple[int, int, str, str], dict[str, float]]] = {}
    for row in rows:
        y, other = (row.rank, row.seq == entry.get("seq")) if entry["y"] == "rank" else (row.seq, row.rank == entry.get("rank"))
        mapped = row.method == entry["method"] and row.model == entry["model"] and row.order in orders and other and not row.checkpointing
        if mapped and y and row.metric == metric and row.value is not None and row.source != "contraction":
            alike = found.setdefault((row.parallel, row.precision), {})
            alike.setdefault((row.batch, y, row.source, row.target), {})[str(row.order)] = row.value
    by_preference = [found[how] for how in sorted(found, key=lambda how: how[0] != "")]
    wholes = [{key: one for key, one in alike.items() if len(one) == len(orders)} for alike in by_preference]
    return next((whole for whole in wholes if whole), {})


def named_at(entry: dict[str, Any], batch: float, y: float) -> str | None:
    """The order that the map has there; the nearest row, None beyond the map's batches."""
    _, stretches = min(entry["rows"], key=lambda row: abs(math.log(row[0] / y)))
    return next((order for low, high, order in stretches if low <= batch <= high), None)
