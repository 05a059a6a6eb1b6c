"""The sections on what modules keep for backward, and on where a step's time and FLOPs go."""

from collections.abc import Callable, Sequence

from refta_profiler.report.material import Material
from refta_profiler.report.pair import Looked, looked_into, place_words
from refta_profiler.report.parts import Block, Cell, Column, Section, Table, Text
from refta_profiler.report.tables import bytes_cell, count_cell, gigaflop_cell, seconds_cell, text_cell
from refta_profiler.units import format_bytes, format_flops, format_percent

SHOWN = 12  # rows of a table; the rest is summed up in one


def kept_section(material: Material) -> Section | None:
    """What modules keep for backward, of the decisive method and its opponent; None where saved tensors were not looked into."""
    found = looked_into(material, "saved")
    if not found:
        return None
    return Section("kept-modules", "What is kept, by module", [Text(kept_words(material, found)), kept_table(material, found)])


def kept_words(material: Material, found: Sequence[Looked]) -> str:
    """How much each keeps, and which module keeps most of it."""
    parts = []
    for one in found:
        layers = one.found["layers"]
        most = f", most of it `{layers[0]['module']}` ({format_bytes(layers[0]['bytes'])})" if layers else ""
        parts.append(f"`{one.label}` keeps {format_bytes(one.found['kept_bytes'])} from forward for backward{most}")
    return f"{'; '.join(parts)}; measured {place_words(material, found)}. A block counts once, for the module that first saved it."


def kept_table(material: Material, found: Sequence[Looked]) -> Table:
    """Bytes by module, then what is held otherwise, then the sum."""
    columns = [Column("module (* is every layer)"), *(Column(one.label, "MiB", f"kept_bytes {one.label}", True) for one in found)]
    saved = [{row["module"]: row["bytes"] for row in one.found["layers"]} for one in found]
    held = [{f"{row['what']} in {row['module']}": row["bytes"] for row in one.found["held"]} for one in found]
    rows = side_by_side(saved, bytes_cell) + side_by_side(held, bytes_cell, first="not saved by autograd: ")
    rows.append([Cell("in all"), *(bytes_cell(one.found["kept_bytes"], "best") for one in found)])
    return Table("kept-modules", f"Bytes kept for backward {place_words(material, found)}, in MiB.", columns, rows)


def side_by_side(columns: Sequence[dict[str, float]], cell: Callable[[float | None], Cell], *, first: str = "") -> list[list[Cell]]:
    """A row a name, most first; what is past SHOWN is summed up."""
    totals: dict[str, float] = {}
    for column in columns:
        for name, value in column.items():
            totals[name] = max(totals.get(name, 0), value)
    names = sorted(totals, key=lambda name: -totals[name])
    rows = [[text_cell(first + name), *(cell(column.get(name)) for column in columns)] for name in names[:SHOWN]]
    if names[SHOWN:]:
        rest = [sum(column.get(name, 0) for name in names[SHOWN:]) for column in columns]
        rows.append([Cell(f"{first}{len(names) - SHOWN} more"), *(cell(value) for value in rest)])
    return rows


def kernels_section(material: Material) -> Section | None:
    """Time by module and by operator, and FLOPs by module, of the decisive method and its opponent; None where nothing was looked into."""
    blocks: list[Block] = []
    for one in looked_into(material, "modules"):
        blocks.append(module_times(material, one, len(blocks)))
    operators = looked_into(material, "operators")
    kernels = looked_into(material, "device_kernels")
    blocks += [operators_table(material, operators, split=bool(kernels))] if operators else []
    blocks += [device_kernels_table(material, kernels)] if kernels else []
    for place, one in enumerate(looked_into(material, "module_flops")[:1]):
        blocks += [Text(flops_words(one)), flops_table(material, one, place)]
    if not blocks:
        return None
    words = "Times are those of one step under torch's profiler, which slows it: read them as shares."
    return Section("kernels", "Kernels and modules", [Text(words), *blocks])


def module_times(material: Material, one: Looked, place: int) -> Table:
    """Time by module."""
    parts = {"forward_seconds": "forward", "recompute_seconds": "recomputed", "backward_seconds": "backward"}
    columns = [Column("module (* is every layer)"), Column("calls", "", "calls", True), Column("its own", "", "own_seconds", True)]
    columns += [Column("share", "", "own_fraction", True), *(Column(words, "", name, True) for name, words in parts.items())]
    whole = sum(row["own_seconds"] for row in one.found["rows"]) + one.found["unattributed_seconds"] or 1.0
    rows = [
        [
            text_cell(row["module"]),
            count_cell(row["calls"]),
            seconds_cell(row["own_seconds"]),
            Cell(format_percent(row["own_seconds"] / whole), row["own_seconds"] / whole),
            *(seconds_cell(row[name]) for name in parts),
        ]
        for row in one.found["rows"][:SHOWN]
    ]
    clock = "kernels on the device" if one.found["clock"] == "device" else "the host's clock"
    caption = f"Where the time of {one.label} goes {place_words(material, [one])}, by {clock}; own time is without the modules within."
    return Table(f"modules-{place}", caption, columns, rows, folded=place > 0)


def operators_table(material: Material, found: Sequence[Looked], *, split: bool) -> Table:
    """The operators with most time of their own; split: whether kernels stand in a table of their own, which they did not in older runs."""
    caption = f"The operators that take most time of their own {place_words(material, found)}."
    if split:
        caption += " Their time is that of the kernels that they launch."
    elif any(one.found["clock"] == "device" for one in looked_into(material, "modules")):
        caption += " Kernels stand among the operators that launched them in this older run: the same time counts in both."
    return Table("operators", caption, *calls_and_seconds("operator", found), folded=True)


def device_kernels_table(material: Material, found: Sequence[Looked]) -> Table:
    """The kernels with most time on the device."""
    caption = f"The kernels and copies that take most time on the device {place_words(material, found)}: the same time, by what ran."
    return Table("device-kernels", caption, *calls_and_seconds("kernel", found), folded=True)


def calls_and_seconds(what: str, found: Sequence[Looked]) -> tuple[list[Column], list[list[Cell]]]:
    """Columns and rows of seconds and calls by name, most time first."""
    columns = [Column(what)]
    for one in found:
        columns += [Column(one.label, "", f"seconds {one.label}", True), Column("calls", "", f"calls {one.label}", True)]
    by_name = [{row[what]: row for row in one.found} for one in found]
    names = sorted(
        {name for rows in by_name for name in rows}, key=lambda name: -max(rows[name]["seconds"] for rows in by_name if name in rows)
    )
    rows = []
    for name in names[:SHOWN]:
        cells = [
            (seconds_cell(rows[name]["seconds"]), count_cell(rows[name]["calls"])) if name in rows else (Cell("–"), Cell("–"))
            for rows in by_name
        ]
        rows.append([text_cell(name), *(cell for pair in cells for cell in pair)])
    return columns, rows


def flops_words(one: Looked) -> str:
    """Both counts of the forward pass, and what they differ in."""
    total, reason = one.found["total"], one.found["reason"]
    if total["fvcore"] is None:
        return f"The forward pass of `{one.label}` is {format_flops(total['ours'])} by our count; there is none by fvcore: {reason}."
    gaps = [
        f"{gap['family']} ({format_flops(gap['ours'])} here, {format_flops(gap['fvcore'])} there): {gap['why']}"
        for gap in one.found["difference"]
    ]
    neither = ", ".join(f"`{name}`" for name in list(one.found["uncounted"]["neither"])[:SHOWN])
    text = (
        f"The forward pass of `{one.label}` is {format_flops(total['ours'])} by our count and {format_flops(total['fvcore'])} by fvcore's."
    )
    text += f" All of the difference is {'; '.join(gaps)}." if gaps else ""
    return f"{text} Counted by neither: {neither}." if neither else text


def flops_table(material: Material, one: Looked, place: int) -> Table:
    """FLOPs of the forward pass by module, ours beside fvcore's."""
    columns = [Column("module (* is every layer)"), Column("modules", "", "modules", True)]
    columns += [Column("ours", "GFLOP", "flops_ours", True), Column("fvcore", "GFLOP", "flops_fvcore", True)]
    rows = [
        [text_cell(row["module"]), count_cell(row["modules"]), gigaflop_cell(row["ours"]), gigaflop_cell(row["fvcore"])]
        for row in one.found["modules"]
    ]
    caption = f"FLOPs of the forward pass of {one.label} {place_words(material, [one])}, a module with all that it calls."
    return Table(f"module-flops-{place}", caption, columns, rows, folded=True)
