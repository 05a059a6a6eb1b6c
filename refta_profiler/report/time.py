"""The section on step time: what was measured, and what a roofline predicts for the target."""

import math
from collections.abc import Sequence

from refta_profiler.evidence import Candidate
from refta_profiler.report.material import Material
from refta_profiler.report.pair import looked_into
from refta_profiler.report.parts import Bars, Block, Cell, Column, Figure, Section, Table, Text
from refta_profiler.report.tables import ABSENT, count_cell, difference_cell, seconds_cell, text_cell
from refta_profiler.results import longest_and_rest
from refta_profiler.statistics import interval_of_mean
from refta_profiler.units import format_percent, format_seconds
from refta_profiler.verdict_words import listing

BOUNDS = {
    "compute_bound_seconds": "bound by compute",
    "bandwidth_bound_seconds": "bound by bandwidth",
    "launch_bound_seconds": "bound by launches",
}
WIDE = 2  # times its lower end, from which on an interval is no help in a figure: two processes can give one of a factor of ten


def time_section(material: Material) -> Section:
    """Measured step times on every device that measured some, and predicted ones for the target; says what is missing."""
    blocks: list[Block] = [block for target in material.measured_targets for block in time_blocks(material, target)]
    if material.target not in {target for target in material.measured_targets if timed(material, target)}:
        blocks = [Text(f"Step time on {material.target} was not measured in this run."), *predicted_blocks(material), *blocks]
    marks = [block for target in material.measured_targets for block in marks_blocks(material, target)]
    return Section("time", "Step time", [*blocks, *marks, *overhead_blocks(material)])


INSTRUMENTS = {
    "time": "the marks between the phases of a timed step",
    "memory": "peaks of memory",
    "flops": "counting FLOPs",
    "timeline": "memory over time",
    "saved": "what is kept for backward",
    "kernels": "time by operator and module",
    "history": "the allocator's history",
    "module_flops": "FLOPs by module",
}


def marks_blocks(material: Material, target: str) -> list[Block]:
    """What the marks within timed steps cost at every point, held against chance; nothing where no step without marks was timed."""
    members = [member for member in material.candidates(target) if member.value("marks_fraction", "measured") is not None]
    if not members:
        return []
    names = {"marks_fraction": "the marks add", "marks_fraction_low": "95% interval, from", "marks_fraction_high": "to"}
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True)]
    columns += [*(Column(words, "", name, True) for name, words in names.items()), Column("so")]
    rows = [
        [
            text_cell(member.label),
            text_cell(material.setting_words(member.setting)),
            count_cell(member.setting.batch),
            *(difference_cell(member.value(name, "measured")) for name in names),
            text_cell(member.rows["measured", "marks_fraction"].note.partition(";")[0]),
        ]
        for member in members
    ]
    caption = f"What the marks within timed steps cost on {target}, by pairs of steps side by side."
    table = Table(f"marks-{material.measured_targets.index(target)}", caption, columns, rows, folded=True)
    return [Text(marks_words(target, members)), table]


def marks_words(target: str, members: Sequence[Candidate]) -> str:
    """At how many points the marks cost more or less than chance, and what they cost over all."""
    judged = [member for member in members if member.value("marks_fraction_low", "measured") is not None]
    start = f"On {target}, nothing but marks between the phases is within a timed step, and a step without them is timed beside it"
    if not judged:
        return f"{start}, once a point: what they cost is not told apart from chance."
    beyond = [member for member in judged if not within_noise(member)]
    within = f"at {len(judged) - len(beyond)} of {len(judged)} points what they cost is within noise"
    words = f"{start}: {within} (at 95%: chance alone puts one in 20 beyond)."
    logarithms = [math.log1p(member.value("marks_fraction", "measured") or 0.0) for member in judged]
    middle, low, high = (math.expm1(one) for one in interval_of_mean(logarithms) or (0.0, math.nan, math.nan))
    ends = f" (95%: {difference_cell(low).text} to {difference_cell(high).text})" if len(judged) > 1 else ""
    return f"{words} Over all of them it is {difference_cell(middle).text}{ends}."


def within_noise(member: Candidate) -> bool:
    """Whether the interval of what the marks cost holds nothing at all."""
    low, high = (member.value(f"marks_fraction_{name}", "measured") for name in ("low", "high"))
    return low is None or high is None or low <= 0 <= high


def overhead_blocks(material: Material) -> list[Block]:
    """What the instruments cost, in timed steps, for the points that are looked into: none is attached while a step is timed."""
    looked = looked_into(material, "overhead")
    if not looked:
        return []
    steps = {one.label: one.found for one in looked_into(material, "step_overhead") if one.setting == looked[0].setting}
    names = [name for name in INSTRUMENTS if any(name in one.found for one in looked)]
    columns = [Column("instrument")]
    for one in looked:
        columns += [Column(f"{one.label}: its step", "× a timed step", f"step {one.label}", True)] if steps else []
        columns += [Column(f"{one.label}: in all" if steps else one.label, "× a timed step", one.label, True)]
    rows = [
        [
            text_cell(INSTRUMENTS[name]),
            *(ratio_cell(found.get(name)) for one in looked for found in ([steps.get(one.label, {}), one.found] if steps else [one.found])),
        ]
        for name in names
    ]
    marks = [one.found["time"] for one in looked if "time" in one.found]
    where = f"{looked[0].target} at batch {looked[0].setting.batch}"
    judged = "" if steps else " (not held against chance in this older run)"
    taken = " and ".join(f"{mark:.3f}" for mark in marks)
    caption = (
        f"What the instruments cost on {where}: a timed step takes {taken} of the time of one without marks{judged}; every other "
        "instrument runs on a step of its own."
    )
    caption += " In all is with what it does before and after its step, such as reading events and writing files." if steps else ""
    return [Table("overhead", caption, columns, rows, folded=True)]


def ratio_cell(value: float | None) -> Cell:
    """How many timed steps' time it took."""
    return ABSENT if value is None else Cell(f"{value:.3g}", value)


def predicted_blocks(material: Material) -> list[Block]:
    """The roofline's times for the target: a figure at the batch that is looked closer at, and a table of all."""
    members = [member for member in material.candidates(material.target) if member.value("step_seconds", "dryrun") is not None]
    if not members:
        return [Text("No step time is predicted for it either; the table of points without a number says why.")]
    batch = material.notable_batch(material.target)
    shown = [member for member in members if member.setting.batch == batch] or members
    panels = [predicted_bars(title, found) for title, found in material.in_panels(shown).items()]
    how = note_of(members[0]).split("; ")[0]
    caption = f"Predicted time of one step on {material.target} at batch {shown[0].setting.batch}: {how}. {bound_words(shown)}"
    return [Figure("predicted-time", caption, caption, panels), predicted_table(material, members)]


def note_of(member: Candidate) -> str:
    """What the predicted time says of itself."""
    return member.rows["dryrun", "step_seconds"].note


def predicted_bars(title: str, members: Sequence[Candidate]) -> Bars:
    """A bar a label, by what bounds its operations."""
    stacks = {words: [1e3 * (member.value(name, "dryrun") or 0.0) for member in members] for name, words in BOUNDS.items()}
    return Bars(title, "milliseconds a step", [member.label for member in members], stacks)


def bound_words(members: Sequence[Candidate]) -> str:
    """Which bound takes most of the first label's step, and its longest operations."""
    first = members[0]
    seconds = {words: first.value(name, "dryrun") or 0.0 for name, words in BOUNDS.items()}
    most = max(seconds, key=lambda words: seconds[words])
    share = format_percent(seconds[most] / (sum(seconds.values()) or 1.0))
    longest, rest = longest_and_rest(note_of(first))
    words = f"{share} of the step of `{first.label}` is {most}" + (f"; its longest operations are {longest}." if longest else ".")
    return f"{words} {rest}." if rest else words


def predicted_table(material: Material, members: Sequence[Candidate]) -> Table:
    """Every predicted time, by phase and by bound, with its longest operations."""
    names = ["step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", *BOUNDS]
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True)]
    columns += [Column(TIMES.get(name) or BOUNDS[name], "", f"predicted_{name}", True) for name in names]
    columns += [Column("longest operations")]
    rows = [
        [
            text_cell(member.label),
            text_cell(material.setting_words(member.setting)),
            count_cell(member.setting.batch),
            *(seconds_cell(member.value(name, "dryrun")) for name in names),
            text_cell(longest_and_rest(note_of(member))[0]),
        ]
        for member in members
    ]
    return Table("predicted-time", f"Times predicted for {material.target}.", columns, rows, folded=True)


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
    panels = [time_bars(f"{target}: {title}", found, drawn(found, largest)) for title, found in material.in_panels(largest).items()]
    caption = f"Time of one step on {target} at batch {batch}, with {whose(largest)}. {time_words(largest, material)}"
    return [Figure(f"time-{material.measured_targets.index(target)}", caption, caption, panels), time_table(material, target, members)]


def whose(members: Sequence[Candidate]) -> str:
    """What the figure's bars are drawn with: 95% intervals; percentiles, and why, where one is not known or too wide to be drawn."""
    found = {member.label: interval(member) for member in members}
    if all_narrow(members):
        return "its 95% interval" + (" within one process" if any(map(is_of_one_process, members)) else "")
    wide = [label for label, ends in found.items() if ends and ends[1] > WIDE * ends[0]]
    why = f"the 95% interval of `{wide[0]}`, over few processes, ends at more than {WIDE} times where it begins" if wide else ""
    return "the 10th to 90th percentile of its steps" + (f" ({why}, which is too wide to be drawn)" if why else "")


def is_of_one_process(member: Candidate) -> bool:
    """Whether its interval is that of one process's steps, as its row says."""
    low = member.rows.get(("measured", "step_seconds_low"))
    return member.lacks_noise and low is not None and low.note.startswith("within one process")


def all_narrow(members: Sequence[Candidate]) -> bool:
    """Whether each has a 95% interval that can be drawn."""
    return all(ends is not None and ends[1] <= WIDE * ends[0] for ends in map(interval, members))


def time_bars(title: str, members: Sequence[Candidate], ends: Sequence[tuple[float, float]]) -> Bars:
    """A bar a label, with those ends."""
    seconds = [float(member.value("step_seconds", "measured") or 0.0) for member in members]
    return Bars(title, "seconds a step", [member.label for member in members], {"step": seconds}, ends)


def drawn(members: Sequence[Candidate], figure: Sequence[Candidate]) -> list[tuple[float, float]]:
    """The ends of each of the members' bars: the same kind for all of the figure, as `whose` says."""
    narrow = all_narrow(figure)
    return [interval(member) or percentiles(member) if narrow else percentiles(member) for member in members]


def interval(member: Candidate) -> tuple[float, float] | None:
    """The ends of the 95% interval of a measured step time; None where there is none, or one that does not say what it is over.

    Rows from before it did have a bootstrap over processes, which with few of them holds the time far less often than 95 times of 100.
    """
    rows = [member.rows.get(("measured", f"step_seconds_{end}")) for end in ("low", "high")]
    low, high = (row.value if row and row.note else None for row in rows)
    return None if low is None or high is None else (low, high)


def percentiles(member: Candidate) -> tuple[float, float]:
    """The 10th and 90th percentile of the measured steps; the step's time for both where they are not known."""
    middle = member.value("step_seconds", "measured") or 0.0
    low, high = (member.value(f"step_seconds_{name}", "measured") for name in ("p10", "p90"))
    return (middle if low is None else low, middle if high is None else high)


def time_words(members: Sequence[Candidate], material: Material) -> str:
    """Fastest and slowest, and the noise below which nothing can be told apart."""
    parts = []
    for title, found in material.in_panels(members).items():
        seconds = sorted((member.value("step_seconds", "measured") or 0.0, member.label) for member in found)
        (fast, first), (slow, last) = seconds[0], seconds[-1]
        parts.append(f"{title}: from {format_seconds(fast)} (`{first}`) to {format_seconds(slow)} (`{last}`)")
    return " ".join([f"{'; '.join(parts)}.", *noise_words(members)])


def noise_words(members: Sequence[Candidate]) -> list[str]:
    """By how much two measurements of one method differ by chance, from the quietest to the noisiest, and which have no noise floor."""
    known = sorted((noise, member.label) for member in members if (noise := member.value("noise_fraction", "measured")))
    alone = list(dict.fromkeys(f"`{member.label}`" for member in members if member.lacks_noise))
    words = []
    if known:
        (least, quiet), (most, noisy) = known[0], known[-1]
        width = f"up to {format_percent(most)}"
        if format_percent(least) != format_percent(most):
            width = f"{format_percent(least)} (`{quiet}`) to {format_percent(most)} (`{noisy}`)"
        words.append(f"By chance alone two measurements of one method differ by {width}: less than that is no difference.")
    if alone:
        whom = "These times have" if len(alone) == len({member.label for member in members}) else f"That of {listing(alone)} has"
        words.append(f"{whom} no noise floor (why is under *Points without a number*): no difference of them is judged.")
    return words


TIMES = {
    "step_seconds": "step",
    "step_seconds_low": "95% interval, from",
    "step_seconds_high": "to",
    "noise_fraction": "noise floor (A/A)",
    "step_seconds_p10": "10th percentile",
    "step_seconds_p90": "90th percentile",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "optimizer_seconds": "optimizer",
    "setup_seconds": "set-up, once",
}


def fraction_or_seconds(name: str, member: Candidate) -> Cell:
    """The cell of a time, or of the noise of times."""
    if name in ("step_seconds_low", "step_seconds_high"):
        ends = interval(member)
        return seconds_cell(ends and ends[name == "step_seconds_high"])
    value = member.value(name, "measured")
    return seconds_cell(value) if name != "noise_fraction" else ABSENT if value is None else Cell(format_percent(value), value)


def time_table(material: Material, target: str, members: Sequence[Candidate]) -> Table:
    """Every measured time on that device."""
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True)]
    columns += [Column(words, "", name, True) for name, words in TIMES.items()]
    rows = [
        [
            text_cell(member.label),
            text_cell(material.setting_words(member.setting)),
            count_cell(member.setting.batch),
            *(fraction_or_seconds(name, member) for name in TIMES),
        ]
        for member in members
    ]
    return Table(f"time-{material.measured_targets.index(target)}", f"Times measured on {target}.", columns, rows, folded=True)
