"""The sections on FLOPs and on trainable parameters."""

from collections.abc import Sequence

from refta_profiler.evidence import Candidate
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Bars, Column, Figure, Panel, Section, Series, Table
from refta_profiler.report.tables import bytes_cell, count_cell, gigaflop_cell, text_cell
from refta_profiler.units import format_percent, significant

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
