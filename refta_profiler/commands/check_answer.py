"""`check`'s answer as data: verdicts, the winner, the reasons, the largest batches. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from refta.errors import SettingError
from refta.operands import AUTOMATIC
from refta_profiler import devices, verdict
from refta_profiler.causes import PEAK, PEAK_PARTS, Cause, causes
from refta_profiler.commands import check_closed, check_runs, flops_lines, options, order_table
from refta_profiler.commands.check_closed import ClosedAnswer
from refta_profiler.commands.check_runs import Runs
from refta_profiler.commands.flops_lines import Fewer
from refta_profiler.commands.peak_lines import LAST, edges, largest
from refta_profiler.errors import ScenarioError
from refta_profiler.verdict import Verdict

PAPER_FORM = "slices"
TRIES = 5  # dry runs around an edge before it is left as it is


@dataclass(frozen=True)
class Reason:
    """Why the peaks of two labels differ: the parts of the difference, and what each one's adapters keep and build in closed form."""

    subject: str
    against: str
    causes: list[Cause]
    closed: dict[str, dict[str, Any]]  # by label: kept_bytes, temporary_bytes, rebuilds


@dataclass(frozen=True)
class Stretch:
    """Batches from `first` to `last` with the same outcome of subject against the other; `last` is None where none was found to end it."""

    first: int
    last: int | None
    outcome: str


@dataclass(frozen=True)
class Largest:
    """For which batches one label beats another: outcomes by batch from the peaks, and by step FLOPs (None: not known)."""

    subject: str
    against: str
    stretches: list[Stretch]
    confirmed: bool  # whether the end of the stretch that holds the asked batch was dry-run, and the batch after it
    flops: Fewer | None


@dataclass
class CheckAnswer:
    """Everything that `check` says."""

    runs: Runs
    memory_bytes: int | None
    subjects: dict[str, str]  # label → the form it is
    verdicts: dict[str, list[Verdict]]  # by subject
    winner: str
    runner_up: str | None
    reasons: list[Reason]
    largest: list[Largest] = field(default_factory=list)
    fitting: dict[str, int | None] = field(default_factory=dict)
    table: order_table.OrderTable | None = None

    @property
    def members(self) -> list[str]:
        """The labels of the method's own orders."""
        return [point.label for point in self.runs.points if point.method == self.runs.question.method]

    def peak(self, label: str) -> int | None:
        """The peak at the asked batch."""
        value = self.runs.values(label).get(self.runs.quantity)
        return None if value is None else int(value)


def of(runs: Runs, *, with_largest: bool) -> CheckAnswer | ClosedAnswer:
    """The answer; from the closed form alone where no order could be dry-run, ScenarioError where there is no closed form either."""
    question = runs.question
    memory = devices.get(question.target).tensor_bytes
    members = [point.label for point in runs.points if point.method == question.method]
    peaks = {label: runs.values(label)[runs.quantity] for label in members if runs.quantity in runs.values(label)}
    if not peaks:
        notes = [row.note for row in runs.rows if row.label in members and row.note]
        reason = notes[0] if notes else "no reason is known"
        table = _order_table(runs)
        if table is None:
            raise ScenarioError(f"{question.method} on {question.model} has neither a dry run nor a closed form: {reason}")
        return check_closed.of(question, table, reason, runs.order)
    ranked = sorted(peaks, key=lambda label: (peaks[label], runs.values(label).get("step_flops", 0)))  # of equal peaks the less work
    subjects = _subjects(runs)
    verdicts = {label: check_runs.verdicts_of(runs, label, memory, runs.baseline) for label in subjects}
    found = CheckAnswer(runs, memory, subjects, verdicts, ranked[0], ranked[1] if len(ranked) > 1 else None, [])
    found.table = _order_table(runs)
    found.reasons = [_reason(found, label, other) for label in subjects for other in _explained(found, label)]
    if with_largest:
        _add_largest(found)
    return found


def _subjects(runs: Runs) -> dict[str, str]:
    """The labels that are judged: the order asked for, or the published one and, unless it is `--against`, the form of ReFTA's paper."""
    question = runs.question
    own = [point for point in runs.points if point.method == question.method]
    if runs.order:
        form = f"what `{question.order}` takes here" if question.order in AUTOMATIC else "the order asked for"
        return {point.label: form for point in own if point.order == runs.order}
    found = {own[0].label: "as the public code runs it"}
    papers = [point for point in own[1:] if point.order == PAPER_FORM and point.label != runs.baseline]
    return found | {point.label: "as the paper writes it" for point in papers}


def _order_table(runs: Runs) -> order_table.OrderTable | None:
    question = runs.question
    try:
        stacks = options.stacks(question.model, question.method, question.targets)
        seq = options.tokens(question.model, question.seq)
        return order_table.of(question.method, question.settings, stacks, seq=seq, model=question.model, precision=question.precision)
    except (ScenarioError, SettingError):
        return None


def decisive(found: CheckAnswer, subject: str) -> list[Verdict]:
    """The verdicts that the outcome for a subject rests on: against `--against`, or the best other order, or else the references."""
    verdicts = [one for one in found.verdicts[subject] if one.subject == subject and one.against]
    asked = [one for one in verdicts if verdict.BY_LABEL in one.comparison]
    orders = [one for one in verdicts if one.kind == "order" and one.decisive]
    return asked or orders or [one for one in verdicts if one.kind == "method"]


def why_it_fails(found: CheckAnswer) -> str:
    """Why the gate does not hold; empty where the first subject pays off in every decisive comparison."""
    subject = next(iter(found.subjects))
    rests_on = decisive(found, subject)
    bad = [said(one) for one in rests_on if one.outcome != "pays"]
    return bad[0] if bad else "" if rests_on else f"{subject}: there is nothing to compare it with"


def _explained(found: CheckAnswer, subject: str) -> list[str]:
    """The labels that a subject is explained against: what decides, and the order that rebuilds and keeps."""
    wanted = [one.against for one in decisive(found, subject)][:1]
    rebuilt = [point.label for point in found.runs.points if point.label in found.members and point.order == "reconstruct"]
    known = [label for label in dict.fromkeys([*wanted, *rebuilt]) if label != subject]
    return [label for label in known if PEAK in found.runs.values(label) and PEAK in found.runs.values(subject)]


def _reason(found: CheckAnswer, subject: str, against: str) -> Reason:
    parts = causes(found.runs.values(against), found.runs.values(subject), PEAK, PEAK_PARTS)
    closed = {label: one for label in (subject, against) if (one := _closed(found, label))}
    return Reason(subject, against, parts, closed)


def _closed(found: CheckAnswer, label: str) -> dict[str, Any] | None:
    """What the adapters of a label keep beyond x, and their largest temporary, at the asked tokens.

    None where there is no closed form, and under checkpointing: of what the whole model keeps only one block's is alive at the peak.
    """
    point, table = found.runs.point(label), found.table
    if point.checkpointing or table is None or point.method != table.method or point.order not in table.network.orders:
        return None
    cost, tokens = table.scope("model")[0].costs[point.order], point.batch * table.seq
    line = cost.kept_bytes
    kept = {"kept_bytes": line.at(tokens), "kept_line": [line.constant, line.per_token]}
    return {**kept, "temporary_bytes": cost.temporary_bytes(tokens), "rebuilds": not line.per_token}


def _add_largest(found: CheckAnswer) -> None:
    """For every subject and what it is explained against: peaks over the batch, outcomes by batch, and the largest batch that fits."""
    runs = found.runs
    pairs = [(one.subject, one.against) for one in found.reasons]
    runs.draw_lines(list(dict.fromkeys(label for pair in pairs for label in pair) or found.subjects))
    found.largest = [_largest(found, *pair) for pair in pairs]
    if found.memory_bytes is not None:
        found.fitting = {label: _fits_up_to(runs, label, found.memory_bytes) for label in runs.lines}


def _largest(found: CheckAnswer, subject: str, other: str) -> Largest:
    runs, confirmed = found.runs, False
    for _ in range(TRIES):
        stretches = outcomes(runs, subject, other)
        end = stretch_at(stretches, runs.question.batch).last
        if end is None:
            break
        runs.confirm([subject, other], end)
        confirmed = stretch_at(outcomes(runs, subject, other), runs.question.batch).last == end
        if confirmed:
            break
    flops = flops_lines.fewer({label: runs.step_flops.get(label, {}) for label in (subject, other)})
    return Largest(subject, other, outcomes(runs, subject, other), confirmed, flops)


def stretch_at(stretches: Sequence[Stretch], batch: int) -> Stretch:
    """The stretch that holds a batch; beyond the largest that is tried, the last."""
    return next((one for one in stretches if one.first <= batch and (one.last is None or batch <= one.last)), stretches[-1])


def outcomes(runs: Runs, subject: str, other: str) -> list[Stretch]:
    """The outcomes of the memory comparison over the batches, by verdict.py's thresholds."""
    found: list[Stretch] = []
    for batch in range(1, LAST + 1):
        against = runs.lines[other].at(batch)
        result = verdict.outcome((runs.lines[subject].at(batch) - against) / against, None)
        if not found or found[-1].outcome != result:
            found = [*found[:-1], Stretch(found[-1].first, batch - 1, found[-1].outcome)] if found else []
            found.append(Stretch(batch, None, result))
    return found


def _fits_up_to(runs: Runs, label: str, memory_bytes: int) -> int | None:
    """The largest batch that fits, dry-run with the one after it; None where the largest that is tried does."""
    lines, batch = runs.lines[label], 0
    for _ in range(TRIES):
        batch = largest(lambda one: lines.at(one) <= memory_bytes, LAST)
        if batch == LAST:
            return None
        if all(one in lines.peaks for one in edges(batch)):
            break
        runs.confirm([label], batch)
    return batch


def entries(found: CheckAnswer) -> list[dict[str, Any]]:
    """The answer as JSON takes it."""
    question = asdict(found.runs.question)
    peaks = [_peak_entry(found, point.label) for point in found.runs.points]
    judged = [
        _verdict_entry(one, form) for label, form in found.subjects.items() for one in found.verdicts[label] if one.subject in (label, "")
    ]
    reasons = [{"kind": "reason", **asdict(one)} for one in found.reasons]
    return [
        {"kind": "question", **question},
        *peaks,
        _winner_entry(found),
        *judged,
        *reasons,
        *[_largest_entry(found, one) for one in found.largest],
    ]


def said(one: Verdict) -> str:
    """The verdict's sentence; there is no scenario here whose baseline it could be."""
    return one.sentence.replace(f" and {verdict.BY_LABEL}", "")


def _verdict_entry(one: Verdict, form: str) -> dict[str, Any]:
    return {**asdict(one), "kind": "verdict", "verdict": one.kind, "form": form, "sentence": said(one)}


def _peak_entry(found: CheckAnswer, label: str) -> dict[str, Any]:
    point, peak, values = found.runs.point(label), found.peak(label), found.runs.values(label)
    fits = None if peak is None or found.memory_bytes is None else peak <= found.memory_bytes
    failed = next((row.note for row in found.runs.rows if row.label == label and row.source == "dryrun" and row.status != "ok"), "")
    named = {"kind": "peak", "label": label, "method": point.method, "order": point.order, "rank": point.rank, "source": "dryrun"}
    sizes = {found.runs.quantity: peak, "static_bytes": values.get("static_bytes"), "step_flops": values.get("step_flops")}
    count = values.get("adapter_parameters", values.get("trainable_parameters"))
    largest = {"largest_batch_that_fits": found.fitting[label]} if label in found.fitting else {}
    return {**named, **sizes, "trainable_parameters": count, "fits": fits, **largest, "note": failed}


def _winner_entry(found: CheckAnswer) -> dict[str, Any]:
    best, other = found.peak(found.winner), found.peak(found.runner_up) if found.runner_up else None
    margin = other - best if best is not None and other is not None else None
    fraction = margin / other if margin is not None and other else None
    return {
        "kind": "winner",
        "label": found.winner,
        "runner_up": found.runner_up,
        "margin_bytes": margin,
        "margin_fraction_of_peak": fraction,
    }


def _largest_entry(found: CheckAnswer, one: Largest) -> dict[str, Any]:
    batch = found.runs.question.batch
    now = stretch_at(one.stretches, batch)
    return {
        "kind": "largest_batch",
        "subject": one.subject,
        "against": one.against,
        "outcome": now.outcome,
        "memory_up_to_batch": now.last,
        "tried_up_to_batch": LAST,
        "from_dry_runs_at_both_edges": one.confirmed,
        "outcomes_by_batch": [asdict(part) for part in one.stretches],
        "step_flops": None if one.flops is None or one.flops.label is None else {"fewer": one.flops.label, "up_to_batch": one.flops.last},
        "step_flops_known": one.flops is not None,
    }
