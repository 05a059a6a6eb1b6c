"""The sections on memory: what one order saves against the others, peak against batch, memory by category, the largest batch that fits."""

from collections.abc import Sequence

from refta_profiler.devices import UNCOUNTED
from refta_profiler.evidence import Candidate, LargestBatch, largest_batch
from refta_profiler.report.material import Material
from refta_profiler.report.palette import CATEGORIES
from refta_profiler.report.parts import Bars, Cell, Column, Figure, Panel, Section, Series, Table, Text
from refta_profiler.report.tables import ABSENT, bytes_cell, difference_cell, text_cell
from refta_profiler.report.trust import error_of
from refta_profiler.units import format_bytes, format_count, format_percent
from refta_profiler.verdict import BY_LABEL, PAYS, SMALL, Verdict
from refta_profiler.verdict_words import listing

GIB = 2**30
BANDS = [(-100 * SMALL, 100 * SMALL, "the same"), (100 * PAYS, 100.0, "pays off")]
SURENESS = {"tried": "", "between": "≥ ", "beyond": "≈ ", "at least": "≥ ", "below": "< "}
SIGNS = (
    "≥: between two batches of this run or the largest that was tried, and more may fit. ≈: beyond the largest batch of this run, a guess. "
    "<: the smallest that was tried does not fit."
)


def savings_section(material: Material) -> Section | None:
    """What the order listed first saves against each other order, by batch: the figure that decides."""
    found = [verdict for verdict in material.verdicts if verdict.kind == "order" and verdict.memory_difference_fraction is not None]
    if not found:
        return None
    subjects = list(dict.fromkeys(verdict.subject for verdict in found))
    blocks = [
        block for subject in subjects for block in savings_blocks(material, [verdict for verdict in found if verdict.subject == subject])
    ]
    return Section("savings", "What the order of contraction saves", blocks)


def savings_blocks(material: Material, found: Sequence[Verdict]) -> list[Figure | Table]:
    """The figure and the table of one subject."""
    panels: dict[str, list[Verdict]] = {}
    for verdict in found:
        panels.setdefault(place_of(material, verdict), []).append(verdict)
    subject = found[0].subject
    caption = savings_caption(material, found)
    drawn = [savings_panel(title, verdicts) for title, verdicts in panels.items()]
    key = f"savings-{material.labels.index(subject)}"
    tables = [savings_table(f"{key}-{index}", title, verdicts) for index, (title, verdicts) in enumerate(panels.items())]
    return [Figure(key, caption, caption, drawn), *tables]


def place_of(material: Material, verdict: Verdict) -> str:
    """The verdict's setting but for the batch, in words."""
    return ", ".join(material.setting_parts(verdict))


def savings_panel(title: str, verdicts: Sequence[Verdict]) -> Panel:
    """Per cent saved against batch, one line an opponent."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for verdict in verdicts:
        lines.setdefault(verdict.against, []).append((verdict.batch, -100 * (verdict.memory_difference_fraction or 0.0)))
    series = [Series(name, sorted(points)) for name, points in lines.items()]
    return Panel(title, "batch", "peak memory saved (%)", series, y_scale="percent", bands=BANDS)


def savings_caption(material: Material, found: Sequence[Verdict]) -> str:
    """The finding: between what and what the saving lies, against the order that decides and against the others."""
    groups: dict[str, list[float]] = {}
    for verdict in sorted(found, key=lambda verdict: not verdict.decisive):
        groups.setdefault(opponent(verdict), []).append(-(verdict.memory_difference_fraction or 0.0))
    (first, savings), *others = groups.items()
    text = f"Against {first} `{found[0].subject}` saves {range_words(savings)} of the peak"
    text += "".join(f"; against {other} {range_words(savings)}" for other, savings in others)
    return f"{text} ({'; '.join(evidence(material.target, found))} of a whole training step)."


def opponent(verdict: Verdict) -> str:
    """Whom a verdict is against: `its best other order`, the baseline with its label, or `the other orders`, which do not decide."""
    if not verdict.decisive:
        return "the other orders"
    return f"{BY_LABEL} (`{verdict.against}`)" if verdict.comparison == BY_LABEL else f"its {verdict.comparison}"


def evidence(target: str, found: Sequence[Verdict]) -> list[str]:
    """['measured on h100, reserved bytes', 'predicted for h100, allocated bytes']: all that the verdicts stand on."""
    kinds = {(verdict.source == "measured", verdict.quantity == "peak_reserved_bytes") for verdict in found}
    return [
        f"{'measured on' if measured else 'predicted for'} {target}, {'reserved' if reserved else 'allocated'} bytes"
        for measured, reserved in sorted(kinds, reverse=True)
    ]


def range_words(fractions: Sequence[float]) -> str:
    """'−0.1% to 24%'."""
    low, high = (f"{'−' if value < 0 else ''}{format_percent(abs(value))}" for value in (min(fractions), max(fractions)))
    return low if low == high else f"{low} to {high}"


def savings_table(key: str, title: str, verdicts: Sequence[Verdict]) -> Table:
    """The same by batch under one setting, a row an opponent."""
    batches = sorted({verdict.batch for verdict in verdicts})
    columns = [Column("against"), *(Column(f"batch {batch}", "", f"batch_{batch}", True) for batch in batches)]
    rows = []
    for against in dict.fromkeys(verdict.against for verdict in verdicts):
        cells = {verdict.batch: saving_cell(verdict) for verdict in verdicts if verdict.against == against}
        rows.append([text_cell(against), *(cells.get(batch, Cell("–")) for batch in batches)])
    decides = dict.fromkeys(verdict.comparison.removeprefix("the ") for verdict in verdicts if verdict.decisive)
    marked = f"; the {listing(list(decides))} stands out" if decides else ""
    caption = f"Peak memory of {verdicts[0].subject} against each other order ({title}): negative where it needs less{marked}."
    return Table(key, caption, columns, rows)


def saving_cell(verdict: Verdict) -> Cell:
    """The difference with its outcome as tone; 'best' marks the decisive comparison."""
    return difference_cell(verdict.memory_difference_fraction, f"{verdict.outcome} best" if verdict.decisive else verdict.outcome)


def peaks_section(material: Material) -> Section | None:
    """Peak memory against batch for every label: lines where predicted, marks where measured, a panel a setting and device."""
    targets = list(dict.fromkeys([material.target, *material.measured_targets]))
    panels = [panel for target in targets for panel in peak_panels(material, target)]
    if not panels:
        return None
    caption = peaks_caption(material)
    return Section("peaks", "Peak memory against batch", [Figure("peaks", caption, caption, panels), peaks_table(material)])


def peak_panels(material: Material, target: str) -> list[Panel]:
    """The panels of one device."""
    limit = [(material.memory_bytes / GIB, f"memory of {target}")] if material.memory_bytes and target == material.target else []
    panels = []
    for title, members in material.in_panels(material.candidates(target)).items():
        error = error_of("peak_allocated_bytes", target, members[0].setting.precision, members[0].setting.parallel)
        own = {name: [member for member in members if member.label == name] for name in material.labels}
        series = [line for name, found in own.items() for line in peak_series(name, found, error=error)]
        top = max((y for line in series for _, y in line.points), default=0.0)
        shown = [(y, text) for y, text in limit if y <= 2 * top]
        if series:
            panels.append(Panel(f"{target}: {title}", "batch", "peak memory (GiB)", series, y_scale="log", limits=shown))
    return panels


def peak_series(name: str, members: Sequence[Candidate], *, error: float | None) -> list[Series]:
    """The predicted line, with the worst error known of such predictions around it, and the measured marks of one label."""
    found = []
    for source, joined in (("dryrun", True), ("measured", False)):
        values = [(member.setting.batch, member.value("peak_allocated_bytes", source)) for member in members]
        points = sorted((batch, value / GIB) for batch, value in values if value is not None)
        around = [(size * (1 - error), size * (1 + error)) for _, size in points] if joined and error else []
        found += [Series(name, points, joined, around)] if points else []
    return found


def peaks_caption(material: Material) -> str:
    """The finding: the least and the most memory at the largest batch, and how close measurement comes."""
    parts = []
    for title, members in material.in_panels(material.candidates(material.target)).items():
        known = [(peak, member) for member in members if (peak := member.known("peak_allocated_bytes")) is not None]
        batch = max((member.setting.batch for _, member in known), default=None)
        sizes = sorted((peak, member.label) for peak, member in known if member.setting.batch == batch)
        if sizes:
            (low, least), (high, most) = sizes[0], sizes[-1]
            parts.append(f"{title}, at batch {batch}, from {format_bytes(low)} (`{least}`) to {format_bytes(high)} (`{most}`)")
    text = (
        f"Peak memory of a training step on {material.target}: {'; '.join(parts)}."
        if parts
        else "Peak memory of a training step as measured."
    )
    marks = f"; filled marks on {', '.join(material.measured_targets)} are measured" if material.measured_targets else ""
    rows = [row for row in material.rows if row.target == material.target]
    errors = {error_of("peak_allocated_bytes", material.target, row.precision, row.parallel) for row in rows}
    known = {error for error in errors if error}
    bars = f", with the worst error known of such predictions ({format_percent(max(known))}) as bars" if known else ""
    unproved = " For some precision of this run that error is not known: see “How do we know”." if None in errors else ""
    return f"{text} Lines are predicted{bars}{marks}.{unproved}"


def peaks_table(material: Material) -> Table:
    """Peak memory by label and batch on the target."""
    columns = [
        Column("method"),
        Column("setting"),
        *(Column(f"batch {batch}", "MiB", f"batch_{batch}", True) for batch in material.batches),
    ]
    rows = []
    for title, members in material.in_panels(material.candidates(material.target)).items():
        for name in material.labels:
            sizes = {member.setting.batch: member for member in members if member.label == name}
            cells = [peak_cell(sizes.get(batch)) for batch in material.batches]
            rows += [[text_cell(name), text_cell(title), *cells]] if sizes else []
    return Table("peaks", f"Peak memory of one step on {material.target}, allocated, in MiB.", columns, rows, folded=True)


def peak_cell(candidate: Candidate | None) -> Cell:
    """The peak, or why there is none."""
    peak = candidate.known("peak_allocated_bytes") if candidate else None
    if peak is None and candidate and candidate.failure:
        return Cell(candidate.failure, candidate.failure, "costs")
    return bytes_cell(peak)


def categories_section(material: Material) -> Section | None:
    """What the bytes at the peak are, at the batch that is looked closer at."""
    batch = material.notable_batch(material.target)
    members = [member for member in material.candidates(material.target) if member.setting.batch == batch]
    panels = [bars for title, found in material.in_panels(members).items() if (bars := category_bars(title, found))]
    if not panels or batch is None:
        return None
    caption = categories_caption(panels, batch, material.target)
    table = categories_table(material, members, batch)
    return Section("categories", "Memory by category", [Figure("categories", caption, caption, panels), table])


def category_bars(title: str, members: Sequence[Candidate]) -> Bars | None:
    """A bar a label, stacked by category; categories that nobody has are left out."""
    split = [(member.label, categories_of(member)) for member in members]
    split = [(label, sizes) for label, sizes in split if sizes]
    present = [name for name in CATEGORIES if any(sizes.get(name) for _, sizes in split)]
    stacks = {CATEGORIES[name]: [sizes.get(name, 0.0) / GIB for _, sizes in split] for name in present}
    return Bars(title, "GiB at the peak", [label for label, _ in split], stacks) if split else None


def categories_of(member: Candidate) -> dict[str, float]:
    """Bytes at the peak by category, from the most trusted source that has them."""
    values = {name: member.known(f"peak_{name}_bytes") for name in CATEGORIES}
    return {name: value for name, value in values.items() if value is not None}


def categories_caption(panels: Sequence[Bars], batch: int, target: str) -> str:
    """The finding: the largest category, and how much of the peak is weights rebuilt from factors."""
    parts = []
    for bars in panels:
        totals = [sum(values) for values in zip(*bars.stacks.values(), strict=True)]
        name, values = max(bars.stacks.items(), key=lambda item: sum(item[1]))
        share = sum(values) / sum(totals)
        rebuilt = bars.stacks.get(CATEGORIES["reconstructed"], [0.0])
        words = f"{bars.title}: {name} are {format_percent(share)} of the bytes"
        words += (
            f", rebuilt weights up to {format_bytes(max(rebuilt) * GIB)} (`{bars.names[rebuilt.index(max(rebuilt))]}`)"
            if max(rebuilt)
            else ""
        )
        parts.append(words)
    return f"What is live at the peak of a step at batch {batch} on {target}. {'; '.join(parts)}."


def categories_table(material: Material, members: Sequence[Candidate], batch: int) -> Table:
    """Bytes at the peak by label and category."""
    columns = [
        Column("method"),
        Column("setting"),
        *(Column(words, "MiB", f"peak_{name}_bytes", True) for name, words in CATEGORIES.items()),
    ]
    rows = []
    for title, found in material.in_panels(members).items():
        for member in found:
            sizes = categories_of(member)
            rows += [[text_cell(member.label), text_cell(title), *(bytes_cell(sizes.get(name)) for name in CATEGORIES)]] if sizes else []
    return Table("categories", f"Bytes at the peak by category at batch {batch} on {material.target}, in MiB.", columns, rows, folded=True)


def fits_section(material: Material) -> Section | None:
    """The largest batch that fits the target, where its memory is known."""
    if material.memory_bytes is None:
        return None
    fits: dict[str, dict[str, LargestBatch]] = {}
    for fit in largest_batch(material.rows, material.memory_bytes, target=material.target):
        place = ", ".join(material.setting_parts(fit))
        fits.setdefault(fit.label, {})[place] = fit
    places = list(dict.fromkeys(place for found in fits.values() for place in found))
    columns = [Column("method"), *(Column(place, "", f"largest batch, {place}", True) for place in places)]
    rows = [[text_cell(label), *(fit_cell(found.get(place)) for place in places)] for label, found in fits.items()]
    beside = f"; {UNCOUNTED}" if material.context_bytes is None else " beside its CUDA context"
    caption = (
        f"The largest batch whose peak fits into the {format_bytes(material.memory_bytes)} that {material.target} has{beside}. {SIGNS}"
    )
    note = Text(reserved_words({fit.quantity for found in fits.values() for fit in found.values()}))
    return Section("fits", "The largest batch that fits", [note, Table("fits", caption, columns, rows)]) if rows else None


def reserved_words(quantities: set[str]) -> str:
    """Whether the peaks are what the allocator reserves, and what to make of it where they are not."""
    if quantities == {"peak_reserved_bytes"}:
        return "Peaks are bytes that the caching allocator reserves: all that a step takes of the card beside its CUDA context."
    alone = quantities == {"peak_allocated_bytes"}
    which = "Peaks are allocated bytes" if alone else "Peaks are reserved bytes where they are known, otherwise allocated"
    return f"{which}. The allocator reserves more than that, so the last few per cent of a card should not be counted on."


def fit_cell(fit: LargestBatch | None) -> Cell:
    """The largest batch, with a sign before it where there is more to say of it (SIGNS)."""
    return Cell(fit_words(fit), fit.known) if fit else ABSENT


def fit_words(fit: LargestBatch) -> str:
    """'64', '≥ 64', '≈ 71' or '< 64'."""
    return SURENESS[fit.certainty] + format_count(fit.batch)
