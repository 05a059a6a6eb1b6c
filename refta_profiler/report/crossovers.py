"""The section on the closed form: where the costs of two orders cross, and the costs themselves, as data that the run wrote."""

from collections.abc import Sequence
from typing import Any

from refta_profiler.report.material import MIB, Material
from refta_profiler.report.parts import Block, Cell, Column, Figure, Items, Panel, Section, Series, Table, Text
from refta_profiler.report.tables import count_cell, text_cell
from refta_profiler.units import significant

QUANTITIES = {
    "forward_flops": ("forward FLOPs", "GFLOP", 1e9),
    "step_flops": ("step FLOPs", "GFLOP", 1e9),
    "kept_bytes": ("bytes kept", "MiB", MIB),
}


def crossovers_section(material: Material) -> Section | None:
    """Where two orders' closed-form costs cross, the bytes they keep against batch, and the costs themselves."""
    crossings = [entry["crossover"] for entry in material.closed_form if "crossover" in entry]
    entries = [entry for entry in material.closed_form if "crossover" not in entry and "map" not in entry]
    if not entries and not crossings:
        return None
    note = "These count what the adapters add to the frozen model, from their contractions alone; the peaks above count the whole step."
    blocks: list[Block] = [Text(note)]
    blocks += [Items([str(crossing["sentence"]) for crossing in crossings])] if crossings else []
    blocks += kept_figure(entries, crossings, material) + ([closed_form_table(entries)] if entries else [])
    return Section("crossovers", "Crossovers in closed form", blocks)


def entry_name(entry: dict[str, Any]) -> str:
    """The label, with the order where the label does not say it."""
    label, order = str(entry.get("label") or entry.get("method")), entry.get("order")
    return label if not order or str(order) in label else f"{label}/{order}"


def kept_figure(entries: Sequence[dict[str, Any]], crossings: Sequence[dict[str, Any]], material: Material) -> list[Figure]:
    """Bytes kept for backward against batch, summed over roles, one line an order, a panel a sequence length."""
    batches = sample(max([*material.batches, *(2 * (crossing.get("batch") or 1) for crossing in crossings)], default=1))
    lengths = list(dict.fromkeys(entry.get("seq") for entry in entries))
    panels = []
    for length in lengths:
        series = kept_series([entry for entry in entries if entry.get("seq") == length], batches)
        title = "closed form, all roles and layers" + (f", sequence {length}" if len(lengths) > 1 else "")
        panels += [Panel(title, "batch", "kept for backward (MiB)", series, x_scale="log", y_scale="log")] if series else []
    if not panels:
        return []
    at = [crossing for crossing in crossings if crossing.get("quantity") == "kept_bytes" and crossing.get("batch")]
    caption = (
        f"Bytes that autograd keeps for the adapters, by batch. {at[0]['sentence'] if at else 'No two of these lines are known to cross.'}"
    )
    return [Figure("kept", caption, caption, panels)]


def kept_series(entries: Sequence[dict[str, Any]], batches: Sequence[float]) -> list[Series]:
    """A line a name of what its roles keep together; none of what keeps nothing."""
    sums: dict[str, tuple[float, float]] = {}
    for entry in entries:
        fixed, each = entry.get("kept_bytes") or (0.0, 0.0)
        before = sums.get(entry_name(entry), (0.0, 0.0))
        sums[entry_name(entry)] = (before[0] + fixed, before[1] + each * (entry.get("seq") or 1))
    lines = {name: line for name, line in sums.items() if line != (0.0, 0.0)}
    return [Series(name, [(batch, (fixed + each * batch) / MIB) for batch in batches]) for name, (fixed, each) in lines.items()]


def sample(top: float, count: int = 33) -> list[float]:
    """`count` batches from 1 to `top`, evenly on a logarithmic axis."""
    return [top ** (index / (count - 1)) for index in range(count)] if top > 1 else [1.0]


def closed_form_table(entries: Sequence[dict[str, Any]]) -> Table:
    """The costs as a + b·t of every entry; the same at every sequence length, it stands there once."""
    columns = [Column("method"), Column("role"), Column("layers", "", "layers", True), Column("shape"), Column("rank", "", "rank", True)]
    columns += [Column(words, unit) for words, unit, _ in QUANTITIES.values()]
    rows = [
        [
            text_cell(entry_name(entry)),
            text_cell(entry.get("role")),
            count_cell(entry.get("layers")),
            text_cell(f"{entry.get('n')} × {entry.get('d')}"),
            count_cell(entry.get("rank")),
            *(Cell(line_words(entry.get(name), factor)) for name, (_, _, factor) in QUANTITIES.items()),
        ]
        for entry in entries
    ]
    once = list(dict.fromkeys(map(tuple, rows)))
    return Table("closed-form", "Costs over all layers of a role, in the tokens t of one step.", columns, once, folded=True)


def line_words(line: Sequence[float] | None, factor: float) -> str:
    """'92 + 0.00141·t'."""
    if line is None:
        return "no closed form"
    fixed, each = (value / factor for value in line)
    parts = [significant(fixed)] if fixed else []
    parts += [f"{significant(each)}·t"] if each else []
    return " + ".join(parts) or "0"
