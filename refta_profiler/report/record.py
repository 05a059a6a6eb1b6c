"""The sections that let a reader check a report: what failed, what was assumed, every number, on what it ran, how to run it again."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from refta_profiler import own_code, sessions
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Block, Cell, Code, Column, Items, Section, Table, Text
from refta_profiler.report.tables import ABSENT, bytes_cell, count_cell, difference_cell, gigaflop_cell, seconds_cell, text_cell
from refta_profiler.results import LONGEST, METRICS, Row
from refta_profiler.units import format_percent
from refta_profiler.verdict import EQUAL, EQUAL_STEP, PAYS, SLOWER, SMALL, Verdict

MEANINGS = {
    "error": "something went wrong",
    "oom": "out of memory",
    "skipped": "not run",
    "unsupported": "cannot be",
}


def rules_section(material: Material) -> Section:
    """How the verdicts are made, so that one can disagree with them."""
    percent = format_percent
    items = [
        (
            f"It pays off: peak memory of the whole step at least {percent(PAYS)} lower, or it fits where the other does not, and a step "
            f"at most {percent(SLOWER)} longer where both times are known."
        ),
        (
            f"A small gain: {percent(SMALL)} to {percent(PAYS)} lower. The same: under {percent(SMALL)}, or less than twice the error of "
            f"predicted differences; a step more than {percent(SLOWER)} shorter, and by more than its noise, is then named with it."
        ),
        "Order: one function with the same parameters, in the order that the scenario lists first, against its best other order that runs.",
        (
            f"Method: against LoRA and PiSSA where rank, parameters or the adapters' step FLOPs are equal within {percent(EQUAL)} "
            f"(whole steps, where there is no closed form, within {percent(EQUAL_STEP)})."
        ),
        f"Task: only where accuracy was measured{'' if material.training else ', which it was not in this run'}.",
    ]
    used = sorted({verdict.quantity for verdict in material.verdicts if verdict.against})
    items += allocated_words(material, used)
    blocks: list[Block] = [Items(items)]
    return Section("rules", "How the verdicts are made", blocks + ([comparisons_table(material)] if used else []))


def allocated_words(material: Material, used: Sequence[str]) -> list[str]:
    """That peaks are allocated bytes, where the verdicts stand on those alone, and what is known of reserved ones."""
    known = any(row.metric == "peak_reserved_bytes" and row.value is not None for row in material.rows)
    if "peak_reserved_bytes" in used or (known and not used):
        return []
    beyond = "is not known of all that are compared" if known else "was neither predicted nor measured"
    return [f"Peak memory here is allocated bytes: what the caching allocator reserves beyond them {beyond}."]


def comparisons_table(material: Material) -> Table:
    """Every comparison that a verdict stands on, with its numbers."""
    names = ("verdict", "comparison", "subject", "against", "setting")
    columns = [*(Column(name) for name in names), Column("batch", "", "batch", True)]
    columns += [Column(name, "MiB", key, True) for name, key in (("its peak", "subject_bytes"), ("the other's", "against_bytes"))]
    columns += [Column(name, "", f"{name}_difference", True) for name in ("memory", "time")] + [Column("evidence"), Column("outcome")]
    rows = [comparison_row(material, verdict) for verdict in material.verdicts if verdict.against]
    return Table("comparisons", f"Every comparison on {material.target}, with its numbers.", columns, rows, folded=True)


def comparison_row(material: Material, verdict: Verdict) -> list[Cell]:
    """One comparison."""
    place = ", ".join(material.setting_parts(verdict))
    evidence = f"{verdict.source}, {verdict.quantity}"
    return [
        *(text_cell(text) for text in (verdict.kind, verdict.comparison, verdict.subject, verdict.against, place)),
        count_cell(verdict.batch),
        bytes_cell(verdict.subject_bytes),
        bytes_cell(verdict.against_bytes),
        difference_cell(verdict.memory_difference_fraction),
        difference_cell(verdict.time_difference_fraction),
        text_cell(evidence),
        Cell(verdict.outcome, verdict.outcome, verdict.outcome),
    ]


def failures_section(material: Material) -> Section:
    """Every point without a number, grouped by reason; and the planned points that were never run."""
    broken = [row for row in material.rows if row.status != "ok"]
    seen = {row.point for row in material.rows}
    left = [point for point in material.planned if point not in seen]
    blocks: list[Block] = []
    if left:
        why = "the run was stopped, or they were left out of it (`--only`)"
        blocks.append(Text(f"{len(left)} of {len(material.planned)} points have no numbers yet: {why}. `--resume` takes up the rest."))
    if broken:
        blocks.append(failures_table(broken))
    return Section("failures", "Points without a number", blocks or [Text("None: every point of this run has all its numbers.")])


def failures_table(broken: Iterable[Row]) -> Table:
    """One row a status, source, device and reason."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in sorted(broken, key=lambda row: list(MEANINGS).index(row.status)):
        groups.setdefault((row.status, row.source, row.target, row.note), []).append(row)
    columns = [
        Column("what"),
        Column("reason"),
        Column("source"),
        Column("device"),
        Column("methods"),
        Column("batches"),
        Column("points", "", "points", True),
    ]
    rows = []
    for (status, source, target, note), members in groups.items():
        reason = note or "no reason was recorded"
        labels = ", ".join(dict.fromkeys(row.label for row in members))
        batches = ", ".join(str(batch) for batch in sorted({row.batch for row in members}))
        what = Cell(f"{status}: {MEANINGS[status]}", status, "costs" if status in ("error", "oom") else "unknown")
        rows.append(
            [
                what,
                *(text_cell(text) for text in (reason, source, target, labels, batches)),
                count_cell(len({row.point for row in members})),
            ]
        )
    return Table("failures", "Points without a number, by reason.", columns, rows)


def notes_section(material: Material) -> Section | None:
    """What was assumed for numbers that are there."""
    groups: dict[str, list[Row]] = {}
    for row in material.rows:
        if row.status == "ok" and row.note:
            groups.setdefault(row.note.partition(f"; {LONGEST}")[0], []).append(row)  # the longest operations are a point's own
    if not groups:
        return None
    columns = [Column("note"), Column("metrics"), Column("methods"), Column("points", "", "points", True)]
    rows = [
        [
            text_cell(note),
            text_cell(", ".join(dict.fromkeys(row.metric for row in members))),
            text_cell(", ".join(dict.fromkeys(row.label for row in members))),
            count_cell(len({row.point for row in members})),
        ]
        for note, members in groups.items()
    ]
    return Section(
        "notes", "Notes on the numbers", [Table("notes", "What was assumed or left out for numbers that are there.", columns, rows)]
    )


MAIN = {
    "peak_allocated_bytes": bytes_cell,
    "peak_reserved_bytes": bytes_cell,
    "static_bytes": bytes_cell,
    "step_flops": gigaflop_cell,
    "step_seconds": seconds_cell,
    "trainable_parameters": count_cell,
}
READ_IN = {"B": "MiB", "FLOP": "GFLOP"}


def numbers_section(material: Material) -> Section:
    """The main numbers of every point, and what each metric means."""
    metrics = [metric for metric in MAIN if any(row.metric == metric for row in material.rows)]
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True), Column("device"), Column("source")]
    columns += [Column(metric.replace("_", " "), READ_IN.get(METRICS[metric].unit, ""), metric, True) for metric in metrics]
    rows = [row for target in dict.fromkeys(row.target for row in material.rows) for row in number_rows(material, target, metrics)]
    table = Table("numbers", "The main numbers of every point; all of them are in results.csv.", columns, rows, folded=True)
    return Section("numbers", "Every number", [table, metrics_table(material)])


def number_rows(material: Material, target: str, metrics: Sequence[str]) -> list[list[Cell]]:
    """One row a point and source on that device."""
    rows = []
    for member in material.candidates(target):
        for source in dict.fromkeys(source for source, _ in member.rows if source != "contraction"):
            cells = [number_cell(member.rows.get((source, metric))) for metric in metrics]
            place = [
                text_cell(material.setting_words(member.setting)),
                count_cell(member.setting.batch),
                text_cell(target),
                text_cell(source),
            ]
            rows.append([text_cell(member.label), *place, *cells])
    return rows


def number_cell(row: Row | None) -> Cell:
    """The number, or the status that stands in its place."""
    if row is None:
        return ABSENT
    return (
        MAIN[row.metric](row.value)
        if row.status == "ok"
        else Cell(row.status, row.status, "costs" if row.status in ("error", "oom") else "unknown")
    )


def metrics_table(material: Material) -> Table:
    """What each metric of the run means."""
    found = dict.fromkeys(row.metric for row in material.rows)
    known = {name: METRICS[name] for name in METRICS if name in found}
    rows = [[text_cell(name), text_cell(metric.unit), text_cell(metric.description)] for name, metric in known.items()]
    return Table("metrics", "What each metric means.", [Column("metric"), Column("unit"), Column("meaning")], rows, folded=True)


def environment_section(material: Material) -> Section | None:
    """What the run ran on and with, and the sessions that made it."""
    rows = [[text_cell(name), text_cell(str(value))] for name, value in facts(material.environment)]
    table = Table("environment", "What the run ran on and with.", [Column("what"), Column("value")], rows)
    worked = material.environment.get(sessions.KEY)
    return Section("environment", "Environment", [table, *([sessions_table(worked)] if worked else [])]) if rows else None


def sessions_table(worked: Sequence[dict[str, Any]]) -> Table:
    """One row a session: when it began, how long it took, the code and the versions that it had, its command, and what it did."""
    names = ("session", "started", "took", "did", "code", "versions", "device", "command")
    columns = [Column(name, "", name, name in ("session", "took")) for name in names]
    rows = []
    for number, one in enumerate(worked, start=1):
        versions = ", ".join(f"{name} {version}" for name, version in (one.get("versions") or {}).items())
        took = seconds_cell(one["wall_seconds"]) if one.get("wall_seconds") is not None else ABSENT
        note = f"{sessions.did(one)} ({one['note']})" if "note" in one else sessions.did(one)
        told = (note, sessions.code(one), versions, str(one.get("device", "")), str(one.get("command", "")))
        rows.append([count_cell(number), text_cell(str(one.get("started", ""))), took, *(text_cell(text) for text in told)])
    caption = "The sessions that made this run, the oldest first; what stands above is of the one that measured last."
    return Table("sessions", caption, columns, rows, folded=len(worked) == 1)


def facts(environment: dict[str, Any]) -> list[tuple[str, Any]]:
    """What environment.json says in single values, by their path; the sessions have a table of their own."""
    told = {name: value for name, value in environment.items() if name != sessions.KEY}
    return [(name, value) for name, value in flat(told) if value not in (None, "")]


def flat(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested mappings, named by their path."""
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        path = f"{prefix}{name}"
        leaf = ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else value
        found += flat(value, f"{path}.") if isinstance(value, dict) else [(path, leaf)]
    return found


def code_lines(environment: dict[str, Any]) -> list[str]:
    """Which state of the profiler made the run's rows, a line each where sessions had several."""
    worked = [(number, one) for number, one in enumerate(sessions.of(environment), start=1) if sessions.made_something(one)]
    by_code: dict[str, list[str]] = {}
    for number, one in worked:
        by_code.setdefault(sessions.code(one), []).append(str(number))
    known = {code: numbers for code, numbers in by_code.items() if code}
    if len(by_code) == 1:
        return [f"# the code: {code}" for code in known]
    of = {code: f"session{'' if len(numbers) == 1 else 's'} {', '.join(numbers)}" for code, numbers in known.items()}
    return [f"# the code of {of[code]}: {code}" for code in known]


def reproduce_section(material: Material) -> Section:
    """The commands that make this run and this report again, and the scenario."""
    path = shlex.quote(material.path or "RUN")
    allowed = f" {own_code.OPTION}" if any(row.method == own_code.NAME for row in material.rows) else ""
    lines = code_lines(material.environment)
    runs = "methods" in material.scenario  # a training loop of one's own has no scenario to run
    lines += [f"python -m refta_profiler run {path}/scenario.yaml{allowed}      # the same run, anew"] if runs else []
    lines += [f"python -m refta_profiler report {path}                 # this report, from the stored rows"]
    lines += (
        [f"python -m refta_profiler run {path}/scenario.yaml --device cuda{allowed}   # measured on the GPU at hand"]
        if runs and "cpu" in material.measured_targets
        else []
    )
    return Section(
        "reproduce",
        "How to reproduce",
        [Code("\n".join(lines), "Commands"), Code(material.scenario_text, "The scenario, as it was when the run started")],
    )
