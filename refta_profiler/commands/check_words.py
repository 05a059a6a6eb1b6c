"""`check`'s answer in words."""

from __future__ import annotations

from refta.cost import Line
from refta_profiler import devices, parallel
from refta_profiler.commands import check_answer, options
from refta_profiler.commands.answer import signed_bytes, table
from refta_profiler.commands.check_answer import CheckAnswer, Largest, Reason, Stretch
from refta_profiler.commands.order_words import line_words
from refta_profiler.commands.peak_lines import LAST
from refta_profiler.results import longest_and_rest
from refta_profiler.units import format_bytes, format_count, format_flops, format_percent
from refta_profiler.verdict import BY_LABEL, Verdict
from refta_profiler.verdict_words import CONCLUSIONS, QUANTITIES, listing

OUTCOMES = {"pays": "pays off", "small": "is a small gain", "same": "is the same", "costs": "needs more"}


def text(found: CheckAnswer) -> str:
    """The whole answer."""
    parts = [_head(found), _winner(found), *[_subject(found, label, form) for label, form in found.subjects.items()], _peaks(found)]
    return "\n\n".join(part for part in parts if part)


def _head(found: CheckAnswer) -> str:
    one = found.runs.question
    seq = f", sequence {one.seq}" if one.seq else ""
    rank = f" of rank {found.runs.point(found.winner).rank}" if found.runs.point(found.winner).rank else ""
    setting = f"{one.precision}, {'with' if one.checkpointing else 'without'} checkpointing, on {' and '.join(one.targets)}"
    setting += f", {options.step_words(one.step)}" if one.step else ""
    setting += f", {parallel.words(one.parallel)} (batch and bytes are a rank's)" if one.parallel else ""
    return f"{one.method}{rank} on {one.model}, batch {one.batch}{seq}, {setting}; predicted for {devices.get(one.target).title}"


def _winner(found: CheckAnswer) -> str:
    peak, other = found.peak(found.winner), found.peak(found.runner_up) if found.runner_up else None
    words = f"Winner: `{found.winner}`, with a peak of {format_bytes(peak or 0)} ({QUANTITIES[found.runs.quantity]}, dry run)"
    if other is not None and peak is not None:
        margin = f"{format_bytes(other - peak)}, {format_percent((other - peak) / other)} of the whole step's peak, more"
        words += f"; the best other order `{found.runner_up}` needs {margin if other > peak else 'the same'}"
    head = found.peak("head")
    floor = f" The head alone, which no method goes below, needs {format_bytes(head)}." if head else ""
    return f"{words}.{floor}"


def _subject(found: CheckAnswer, label: str, form: str) -> str:
    decisive = check_answer.decisive(found, label)
    lines = [f"`{label}` ({form}): {_conclusion(decisive)}"]
    lines += [f"  - {check_answer.said(one)}" for one in decisive]
    others = [one for one in found.verdicts[label] if one.subject == label and one not in decisive and one.against]
    lines += [f"  - {check_answer.said(one)}" for one in others if one.kind == "method" or one.comparison == "best other order"]
    lines += [
        f"  - {check_answer.said(one)}"
        for one in found.verdicts[label]
        if one.kind == "method" and not one.against and one.subject == label
    ]
    lines += [f"  - why: {_reason(one)}" for one in found.reasons if one.subject == label]
    lines += [f"  - {_largest(found, one)}" for one in found.largest if one.subject == label]
    notes = (row.note for row in found.runs.rows if (row.label, row.metric, row.source) == (label, "step_seconds", "dryrun"))
    _, rest = longest_and_rest(next(notes, ""))
    return "\n".join([*lines, *([f"  - {rest}"] if rest else [])])


def _conclusion(decisive: list[Verdict]) -> str:
    if not decisive:
        return "there is nothing to compare it with"
    return listing([f"{CONCLUSIONS[one.conclusion]} against `{one.against}`{_named(one)}" for one in decisive])


def _named(one: Verdict) -> str:
    return f" ({one.comparison.replace(BY_LABEL, 'what was asked')})" if one.comparison else ""


def _reason(one: Reason) -> str:
    """'`a` less `b` is -182 MiB: rebuilt weights … -184 MiB, …; in closed form `a` keeps 4.3 MiB of features, `b` …'"""
    parts = [f"{cause.name} {signed_bytes(cause.difference)}" for cause in one.causes[:4]] or ["no part differs"]
    total = sum(cause.difference for cause in one.causes)
    words = f"`{one.subject}` less `{one.against}` is {signed_bytes(total)} at the peak (allocated): {', '.join(parts)}"
    closed = [_kept(label, values) for label, values in one.closed.items()]
    return f"{words}. In closed form {listing(closed)}." if closed else f"{words}."


def _kept(label: str, values: dict) -> str:
    """'`refta/shared` keeps 4.33 MiB of features (2,880·t bytes), with a largest temporary of 6.2 MiB'"""
    what = "rebuilt weights and factors" if values["rebuilds"] else "features"
    line = line_words(Line(*values["kept_line"]))
    kept = f"{format_bytes(values['kept_bytes'])} of {what} ({line} bytes)" if values["kept_bytes"] else "nothing"
    return f"`{label}` keeps {kept}, with a largest temporary of {format_bytes(values['temporary_bytes'])}"


def _largest(found: CheckAnswer, one: Largest) -> str:
    """For which batches it is so, by memory and by FLOPs."""
    how = f"on lines through dry runs up to batch {LAST:,}, the end of the stretch with batch {found.runs.question.batch} dry-run itself"
    how = how if one.confirmed else f"on lines through dry runs up to batch {LAST:,}"
    memory = ", ".join(f"{OUTCOMES[part.outcome]} {_batches(part)}" for part in one.stretches)
    return f"against `{one.against}` by batch: memory {memory} ({how}); {_flops(one)}"


def _batches(part: Stretch) -> str:
    if part.last is None:
        return f"from batch {part.first:,} on" if part.first > 1 else "at every batch"
    return f"at batch {part.first:,}" if part.first == part.last else f"at batches {part.first:,} to {part.last:,}"


def _flops(one: Largest) -> str:
    if one.flops is None:
        return "where step FLOPs cross is not known, as those of the dry runs are on no line in the batch"
    if one.flops.label is None:
        return "step FLOPs are equal"
    ours = "fewer" if one.flops.label == one.subject else "more"
    return f"{ours} step FLOPs {'at every batch' if one.flops.last is None else f'up to batch {one.flops.last:,}'}"


def _peaks(found: CheckAnswer) -> str:
    """A row a label: peak, step FLOPs, parameters, whether it fits."""
    rows = [["label", "peak", "step FLOPs", "trained", "fits", "fits up to batch"]]
    for point in found.runs.points:
        values, peak = found.runs.values(point.label), found.peak(point.label)
        fits = "" if found.memory_bytes is None or peak is None else "yes" if peak <= found.memory_bytes else "no"
        most = found.fitting.get(point.label, 0) if point.label in found.fitting else 0
        up_to = "" if point.label not in found.fitting else f"over {LAST:,}" if most is None else f"{most:,}"
        flops, count = values.get("step_flops"), values.get("trainable_parameters")
        amounts = ((format_bytes, peak), (format_flops, flops), (format_count, count))
        shown = ["–" if value is None else form(value) for form, value in amounts]
        rows.append([point.label, *shown, fits, up_to])
    context = devices.get(found.runs.question.target).context_bytes
    beside = f", {devices.UNCOUNTED}" if context is None else " for tensors"
    memory = f" ({format_bytes(found.memory_bytes)}{beside})" if found.memory_bytes else ""
    return f"Dry runs for {found.runs.question.target}{memory}:\n{table(rows, indent='  ')}"
