"""The section that says how far the predictions can be trusted, and from what that is known."""

from collections.abc import Sequence

from refta_profiler import devices, trust
from refta_profiler.errors import ScenarioError
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Code, Column, Section, Table, Text
from refta_profiler.report.tables import count_cell, text_cell
from refta_profiler.trust import Trust
from refta_profiler.units import format_percent

METRICS = ("peak_allocated_bytes", "peak_reserved_bytes", "step_flops", "step_seconds", "communicated_bytes")


def error_of(metric: str, target: str, precision: str, parallel: str = "") -> float | None:
    """The worst error known of such predictions, a fraction; None where none is known, or the device is not of devices.yaml."""
    found = entry(metric, target, precision, trust.ranks_of(parallel))
    return None if found is None else found.error


def entry(metric: str, target: str, precision: str, ranks: str) -> Trust | None:
    """What is known of such predictions, of one process or over ranks."""
    try:
        return trust.of(metric, target, precision, ranks)
    except ScenarioError:
        return None


def trust_section(material: Material) -> Section | None:
    """A row for each kind of prediction in this run: what it was held against, and the worst error found."""
    predicted = {
        (row.metric, row.target, row.precision, trust.ranks_of(row.parallel))
        for row in material.rows
        if row.source == "dryrun" and row.value is not None
    }
    rows, used = [], []
    for metric in METRICS:
        for target, precision, ranks in sorted(one[1:] for one in predicted if one[0] == metric):
            found = entry(metric, target, precision, ranks)
            if found is not None:
                rows.append(trust_row(metric, target, precision, ranks, found))
                used.append(found)
    if not rows:
        return None
    names = ("what", "device", "precision", "ranks", "worst error")
    columns = [*(Column(name) for name in names), Column("cases", "", "cases", True)]
    columns += [Column("held against"), Column("but")]
    caption = (
        "What predictions of each kind in this run were held against, and the worst error found. “Unproved”: nothing was measured yet."
    )
    checks = list(dict.fromkeys(found.check for found in used))
    blocks = [
        Text(words(material)),
        Table("trust", caption, columns, rows),
        Code("\n".join(checks), "The checks, for a clone of the project:"),
    ]
    return Section("trust", "How do we know", blocks)


def words(material: Material) -> str:
    """The finding for peak memory on the target."""
    kinds = sorted({(row.precision, trust.ranks_of(row.parallel)) for row in material.rows if row.target == material.target})
    parts = []
    for precision, ranks in kinds:
        found = entry("peak_allocated_bytes", material.target, precision, ranks)
        if found is None:
            continue
        name = f"{precision} on {devices.get(material.target).kind} devices{', over several ranks' if ranks == trust.SEVERAL else ''}"
        parts.append(f"{name}: {'unproved' if found.error is None else f'within {format_percent(found.error)} in {found.cases} cases'}")
    own = "What this run itself measured stands under “Predicted beside measured”."
    return f"Predicted peak memory (allocated), {'; '.join(parts)}. {own}" if parts else own


def trust_row(metric: str, target: str, precision: str, ranks: str, found: Trust) -> Sequence[Cell]:
    """One kind of prediction."""
    error = Cell("unproved", None, "unknown") if found.error is None else Cell(format_percent(found.error), found.error)
    texts = (metric, target, precision, ranks)
    return [
        *(text_cell(one) for one in texts),
        error,
        count_cell(found.cases),
        text_cell(found.against),
        text_cell(found.limits),
    ]
