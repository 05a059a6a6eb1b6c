"""The section on the pretrained weights themselves: which transform captures most, and whether the frozen residual is quantised better."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from refta_profiler.report.material import Material
from refta_profiler.report.parts import Block, Cell, Column, Figure, Items, Panel, Section, Series, Table
from refta_profiler.report.tables import count_cell, difference_cell, text_cell
from refta_profiler.units import format_percent
from refta_profiler.verdict_words import listing

QUANTISERS = ("int8", "int4", "nf4")
TELLING = 0.01  # an error that changes by less than this is the same
Entry = Mapping[str, Any]


def residuals_section(material: Material) -> Section | None:
    """Energy and quantisation error by transform and rank; None where they were not looked at."""
    entries = material.residuals.get("entries") or []
    if not entries:
        return None
    blocks: list[Block] = [Items([energy_words(entries), *quantisation_words(entries)]), figure(entries), table(entries)]
    return Section("residuals", "What is in the pretrained weights", blocks)


def change(entry: Entry, quantiser: str) -> float:
    """The squared error of the residual against that of the weights, less 1: −0.1 is 10% less."""
    return entry["residual_error"][quantiser] / entry["weights_error"][quantiser] - 1


def percent_change(quantiser: str, entry: Entry) -> float:
    """The same in per cent."""
    return 100 * change(entry, quantiser)


def mean(entries: Iterable[float]) -> float:
    """The mean over the stacks."""
    return statistics.fmean(entries)


def by(entries: Sequence[Entry], name: str) -> list[Any]:
    """The values of a key, in order."""
    return list(dict.fromkeys(entry[name] for entry in entries))


def energy_words(entries: Sequence[Entry]) -> str:
    """Which transform to choose, by captured energy at every rank."""
    ranks, transforms = by(entries, "rank"), by(entries, "transform")
    best, shown = [], []
    for rank in ranks:
        captured = {name: mean(one["energy"] for one in entries if (one["transform"], one["rank"]) == (name, rank)) for name in transforms}
        ordered = sorted(captured, key=lambda name: -captured[name])
        best.append(ordered[0])
        shown.append(f"R = {rank}: {listing([f'`{name}` {100 * captured[name]:.2f}%' for name in ordered])}")
    where = f"these {entries[0]['layers']}-layer stacks (mean over {listing(by(entries, 'stack'))})"
    winners = list(dict.fromkeys(best))
    if len(winners) == 1:
        lead = f"Choose `{winners[0]}` by energy: at every rank it captures the most of {where}."
    else:
        first = [
            f"`{name}` at R = {listing([str(rank) for rank, one in zip(ranks, best, strict=True) if one == name])}" for name in winners
        ]
        lead = f"Which transform captures the most of {where} depends on the rank: {listing(first)}."
    return f"{lead} {'; '.join(shown)}. How much is captured says what the adapter starts from, not how well it learns."


def quantisation_words(entries: Sequence[Entry]) -> list[str]:
    """The paper's claim on quantised residuals, for every quantiser."""
    found = []
    for quantiser in QUANTISERS:
        changes = [change(entry, quantiser) for entry in entries]
        less = sum(one < -TELLING for one in changes)
        more = sum(one > TELLING for one in changes)
        finding = "holds throughout" if less == len(changes) else "holds in part" if less else "does not hold"
        best = min(entries, key=lambda entry: change(entry, quantiser))
        most = f"at most {format_percent(-change(best, quantiser))} less" if change(best, quantiser) < 0 else "never less"
        where = f"{best['stack']}, `{best['transform']}`, R = {best['rank']}"
        found.append(
            f"That the residual is quantised with less error than the weights {finding} for {quantiser}: less by more than 1% in {less} of "
            f"{len(changes)} cases, more in {more}; {most} ({where})."
        )
    shown = [f"{name} by {bounds([relative(entry, name) for entry in entries])}" for name in QUANTISERS]
    why = "a residual has less in it, and the R components stay beside it unquantised"
    return [*found, f"Part of this is that {why}: relative to what is left of the energy, the error changes for {listing(shown)}."]


def relative(entry: Entry, quantiser: str) -> float:
    """The change of the error over that of the energy: where 20% of the energy is taken out and the error falls by 20%, it is 0."""
    left = 1 - entry["energy"]
    return (1 + change(entry, quantiser)) / left - 1 if left > 0 else 0.0


def bounds(values: Sequence[float]) -> str:
    """'−3.1% to +1%'."""
    low, high = (difference_cell(choose(values)).text for choose in (min, max))
    return f"{low} to {high}"


def figure(entries: Sequence[Entry]) -> Figure:
    """Captured energy, and the change of the quantisation error, against R; means over the stacks."""
    panels = [panel(entries, "captured energy", "energy captured (%)", lambda one: 100 * one["energy"])]
    for quantiser in QUANTISERS:
        panels.append(panel(entries, f"{quantiser}: residual against weights", "squared error (%)", partial(percent_change, quantiser)))
    caption = "Energy that R components capture, and the squared quantisation error of the residual less that of the weights. "
    caption += f"{energy_words(entries).split('. ')[0]}; {listing([short(entries, one) for one in QUANTISERS])}."
    return Figure("residuals", caption, caption, panels)


def short(entries: Sequence[Entry], quantiser: str) -> str:
    """'int8 changes by −3% to +1%'."""
    return f"{quantiser}'s error changes by {bounds([change(entry, quantiser) for entry in entries])}"


def panel(entries: Sequence[Entry], title: str, label: str, value: Any) -> Panel:
    """A line a transform."""
    series = []
    for transform in by(entries, "transform"):
        own = [entry for entry in entries if entry["transform"] == transform]
        points = [(float(rank), mean(value(one) for one in own if one["rank"] == rank)) for rank in by(own, "rank")]
        series.append(Series(transform, points))
    return Panel(title, "R", label, series, x_scale="batch")


def table(entries: Sequence[Entry]) -> Table:
    """Every stack, transform and rank."""
    columns = [Column("stack"), Column("transform"), Column("R", "", "rank", True), Column("energy captured", "", "energy", True)]
    for quantiser in QUANTISERS:
        columns += [
            Column(f"{quantiser}: weights", "", f"{quantiser}_weights", True),
            Column("residual", "", f"{quantiser}_residual", True),
        ]
        columns += [Column("change", "", f"{quantiser}_change", True)]
    rows = []
    for entry in entries:
        cells = [text_cell(entry["stack"]), text_cell(entry["transform"]), count_cell(entry["rank"])]
        cells.append(Cell(f"{100 * entry['energy']:.2f}%", entry["energy"]))
        for quantiser in QUANTISERS:
            errors = [entry[name][quantiser] for name in ("weights_error", "residual_error")]
            cells += [*(Cell(f"{error:.4g}", error) for error in errors), difference_cell(change(entry, quantiser))]
        rows.append(cells)
    caption = "Squared quantisation error ‖T − Q(T)‖² of the weights and ‖T_res − Q(T_res)‖² of the residual: "
    caption += (
        f"{listing([short(entries, one) for one in QUANTISERS])}. int8 has a scale a row, int4 and nf4 one a block of 64; ours, symmetric."
    )
    return Table("residuals", caption, columns, rows, folded=True)
