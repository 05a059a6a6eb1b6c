"""The sections on FLOPs, time, parameters, and where the closed-form costs of two orders cross."""

from collections.abc import Sequence

from refta_profiler.evidence import Candidate
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Bars, Block, Column, Figure, Panel, Section, Series, Table, Text
from refta_profiler.report.tables import bytes_cell, count_cell, gigaflop_cell, seconds_cell, text_cell
from refta_profiler.units import format_percent, format_seconds, significant

MIB = 2**20


def flops_section(material: Material) -> Section | None:
    """FLOPs of forward and backward for every label, at the batch that is looked closer at."""
    batch = material.notable_batch(material.target)
    members = [member for member in material.candidates(material.target) if member.setting.batch == batch and member.known("step_flops")]
    members = [member for member in members if member.value("step_flops", "dryrun") or member.value("step_flops", "measured")]
    if not members:
        return None
    panels = [flop_bars(title, found) for title, found in material.in_panels(members).items()]
    caption = f"FLOPs of one step at batch {batch}, the whole model's. {'; '.join(flops_words(bars) for bars in panels)}."
    return Section("flops", "FLOPs of a step", [Figure("flops", caption, caption, panels), flops_table(material, members, batch)])


def flop_bars(title: str, members: Sequence[Candidate]) -> Bars:
    """A bar a label: forward, and what the backward pass adds."""
    forward = [(member.known("forward_flops") or 0.0) / 1e9 for member in members]
    whole = [(member.known("step_flops") or 0.0) / 1e9 for member in members]
    backward = [step - part for step, part in zip(whole, forward, strict=True)]
    stacks = {"forward": forward, "backward": backward} if any(forward) else {"forward and backward": whole}
    return Bars(title, "GFLOP a step", [member.label for member in members], stacks)


def flops_words(bars: Bars) -> str:
    """'without checkpointing: `lora` 2.01 times `head`'s, the least': the most beside the least."""
    totals = [sum(values) for values in zip(*bars.stacks.values(), strict=True)]
    least, most = totals.index(min(totals)), totals.index(max(totals))
    times = significant(totals[most] / totals[least]) if totals[least] else "?"
    return f"{bars.title}: the most, `{bars.names[most]}`, is {times} times the least, `{bars.names[least]}`"


def flops_table(material: Material, members: Sequence[Candidate], batch: int | None) -> Table:
    """FLOPs by label: forward, step, and what the adapter itself adds by its closed form."""
    columns = [
        Column("method"),
        Column("setting"),
        Column("forward", "GFLOP", "forward_flops", True),
        Column("step", "GFLOP", "step_flops", True),
    ]
    columns += [Column("the adapter's own, forward", "GFLOP", "adapter_forward_flops", True)]
    columns += [
        Column("the adapter's own, step", "GFLOP", "adapter_step_flops", True),
        Column("kept by the adapter", "MiB", "adapter_kept_bytes", True),
    ]
    rows = [
        [
            text_cell(member.label),
            text_cell(material.setting_words(member.setting)),
            gigaflop_cell(member.known("forward_flops")),
            gigaflop_cell(member.known("step_flops")),
            gigaflop_cell(member.value("forward_flops", "contraction")),
            gigaflop_cell(member.value("step_flops", "contraction")),
            bytes_cell(member.value("kept_bytes", "contraction")),
        ]
        for member in members
    ]
    caption = f"FLOPs of one step at batch {batch}; the adapter's own come from its closed form and are beyond the frozen model's."
    return Table("flops", caption, columns, rows, folded=True)


def time_section(material: Material) -> Section:
    """Measured step times on every device that measured some; says so where none did."""
    blocks: list[Block] = [block for target in material.measured_targets for block in time_blocks(material, target)]
    if material.target not in {target for target in material.measured_targets if timed(material, target)}:
        text = f"Step time on {material.target} was not measured in this run. FLOPs do not stand in for it: they never decide alone."
        blocks.insert(0, Text(text))
    return Section("time", "Step time", blocks)


def timed(material: Material, target: str) -> list[Candidate]:
    """What has a measured step time on that device."""
    return [member for member in material.candidates(target) if member.value("step_seconds", "measured") is not None]


def time_blocks(material: Material, target: str) -> list[Block]:
    """The figure at the largest batch measured, and the table of all."""
    members = timed(material, target)
    if not members:
        return []
    batch = max(member.setting.batch for member in members)
    largest = [member for member in members if member.setting.batch == batch]
    panels = [time_bars(f"{target}: {title}", found) for title, found in material.in_panels(largest).items()]
    caption = f"Median time of one step on {target} at batch {batch}, with the 10th to 90th percentile. {time_words(largest, material)}"
    return [Figure(f"time-{material.measured_targets.index(target)}", caption, caption, panels), time_table(material, target, members)]


def time_bars(title: str, members: Sequence[Candidate]) -> Bars:
    """A bar a label, with the interval between the percentiles."""
    seconds = [float(member.value("step_seconds", "measured") or 0.0) for member in members]
    ends = [(member.value("step_seconds_p10", "measured"), member.value("step_seconds_p90", "measured")) for member in members]
    intervals = [
        (low if low is not None else middle, high if high is not None else middle)
        for (low, high), middle in zip(ends, seconds, strict=True)
    ]
    return Bars(title, "seconds a step", [member.label for member in members], {"step": seconds}, intervals)


def time_words(members: Sequence[Candidate], material: Material) -> str:
    """Fastest and slowest, and the noise below which nothing can be told apart."""
    parts = []
    for title, found in material.in_panels(members).items():
        seconds = sorted((member.value("step_seconds", "measured") or 0.0, member.label) for member in found)
        (fast, first), (slow, last) = seconds[0], seconds[-1]
        parts.append(f"{title}: from {format_seconds(fast)} (`{first}`) to {format_seconds(slow)} (`{last}`)")
    noise = max((member.value("noise_fraction", "measured") or 0.0 for member in members), default=0.0)
    tail = f" Two runs of one setting differ by up to {format_percent(noise)}: less than that is no difference." if noise else ""
    return f"{'; '.join(parts)}.{tail}"


TIMES = {
    "step_seconds": "step",
    "step_seconds_p10": "10th percentile",
    "step_seconds_p90": "90th percentile",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "optimizer_seconds": "optimizer",
    "setup_seconds": "set-up, once",
}


def time_table(material: Material, target: str, members: Sequence[Candidate]) -> Table:
    """Every measured time on that device."""
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True)]
    columns += [Column(words, "", name, True) for name, words in TIMES.items()]
    rows = [
        [
            text_cell(member.label),
            text_cell(material.setting_words(member.setting)),
            count_cell(member.setting.batch),
            *(seconds_cell(member.value(name, "measured")) for name in TIMES),
        ]
        for member in members
    ]
    return Table(f"time-{material.measured_targets.index(target)}", f"Times measured on {target}.", columns, rows, folded=True)


def parameters_section(material: Material) -> Section | None:
    """Trainable parameters of every label, and how they stand to peak memory."""
    members: dict[str, Candidate] = {}
    for member in material.candidates(material.target):
        if member.known("trainable_parameters") is not None or member.known("adapter_parameters") is not None:
            members.setdefault(member.label, member)
    if not members:
        return None
    columns = [
        Column("method"),
        Column("order"),
        Column("rank", "", "rank", True),
        Column("in the adapter", "", "adapter_parameters", True),
    ]
    columns += [Column("with the head", "", "trainable_parameters", True)]
    rows = [
        [text_cell(label), text_cell(member.order), count_cell(member.rank), *(count_cell(member.known(metric)) for metric in COUNTS)]
        for label, member in members.items()
    ]
    table = Table("parameters", "Numbers that the optimizer updates.", columns, rows)
    return Section("parameters", "Trainable parameters", [*pareto(material), table])


COUNTS = ("adapter_parameters", "trainable_parameters")


def pareto(material: Material) -> list[Figure]:
    """Trainable parameters against peak memory at one batch: fewer parameters do not make a step smaller by themselves."""
    batch = material.notable_batch(material.target)
    members = [member for member in material.candidates(material.target) if member.setting.batch == batch]
    panels = []
    for title, found in material.in_panels(members).items():
        values = [(member.label, member.known("trainable_parameters"), member.known("peak_allocated_bytes")) for member in found]
        series = [Series(label, [(count, peak / 2**30)], joined=False) for label, count, peak in values if count and peak]
        panels += [Panel(title, "trainable parameters", "peak memory (GiB)", series, x_scale="log")] if series else []
    if not panels:
        return []
    caption = f"Trainable parameters against peak memory at batch {batch} on {material.target}. {pareto_words(members)}"
    return [Figure("pareto", caption, caption, panels)]


def pareto_words(members: Sequence[Candidate]) -> str:
    """Whether the adapter with the fewest parameters needs less memory than the one with the most, at the first setting."""
    alike = [member for member in members if member.setting == members[0].setting and member.known("peak_allocated_bytes")]
    counts = [(member.known("adapter_parameters") or 0, member) for member in alike if member.known("adapter_parameters")]
    if len({count for count, _ in counts}) < 2:
        return "All adapters train the same number of parameters."
    (few, least), (many, most) = (choose(counts, key=lambda entry: entry[0]) for choose in (min, max))
    change = (least.known("peak_allocated_bytes") or 0) / (most.known("peak_allocated_bytes") or 1) - 1
    words = f"`{most.label}` trains {significant(many / few)} times the parameters of `{least.label}`"
    return f"{words}, whose peak is {format_percent(abs(change))} {'lower' if change < 0 else 'higher'}."
