"""Does it pay off? Three verdicts, never merged (the third in task_verdict).

*Order*: the same function run in one order against its best other order that runs. *Method*: against LoRA and PiSSA at equal rank, equal
parameters and equal step cost. *Task*: only where accuracy was measured. Memory is the whole step's peak, reserved where that is known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from refta_profiler.comparison import PAYS, SLOWER, SMALL, Inputs, Verdict, blank, compare, outcome, runs
from refta_profiler.errors import ScenarioError
from refta_profiler.evidence import (
    BOUNDS,
    EQUAL,
    REFERENCES,
    Candidate,
    Family,
    LargestBatch,
    candidates,
    comparable,
    difference_errors,
    families,
    head_target,
    largest_batch,
)
from refta_profiler.headline import headline
from refta_profiler.results import Row
from refta_profiler.task_verdict import task_verdicts
from refta_profiler.verdict_words import sentence_missing

__all__ = ["PAYS", "SLOWER", "SMALL", "LargestBatch", "Verdict", "headline", "largest_batch", "outcome", "verdicts"]

EQUAL_STEP = 0.02  # the FLOPs of whole steps, most of them the frozen base's, within this
COMPARISONS = ("equal rank", "equal parameters", "equal step cost")
BY_LABEL = "the baseline of the scenario"


def verdicts(rows: Iterable[Row], *, baseline: str = "best", target: str | None = None, memory_bytes: int | None = None) -> list[Verdict]:
    """Every verdict for one target (by default the one that is predicted for): order, then method, then task.

    `baseline` is 'best' or a label. With `memory_bytes` (of the target, less its CUDA context where
    that is known) a label that does not fit does not run.
    """
    rows = list(rows)
    check_baseline(rows, baseline)
    inputs = Inputs(target or head_target(rows), memory_bytes, difference_errors(rows))
    groups = families(candidates(rows, inputs.target))
    orders = [verdict for family in groups for verdict in order_verdicts(family, baseline, inputs)]
    return orders + method_verdicts(groups, baseline, inputs) + task_verdicts(rows, inputs.target)


def check_baseline(rows: Sequence[Row], baseline: str) -> None:
    """Nothing; a ScenarioError where the baseline is no label of the run."""
    labels = list(dict.fromkeys(row.label for row in rows))
    if rows and baseline != "best" and baseline not in labels:
        raise ScenarioError(f"baseline: {baseline!r} is neither 'best' nor a label of this run; its labels are {', '.join(labels)}")


def order_verdicts(family: Family, baseline: str, inputs: Inputs) -> list[Verdict]:
    """The order listed first against every other order of the function; decisive is the baseline, or the best of those that run."""
    members = family.members
    subject = first_subject(members, baseline)
    others = [member for member in members if member is not subject and member.order]
    if not subject.order or not others:
        return []
    best = best_of(family, others, inputs)
    decisive = next((other for other in others if other.label == baseline), best)
    found = []
    for other in others:
        comparison = BY_LABEL if other.label == baseline else "best other order" if other is best else "other order"
        verdict = compare(family, subject, other, inputs, kind="order", comparison=comparison)
        found.append(replace(verdict, decisive=other is decisive))
    return found


def first_subject(members: Sequence[Candidate], baseline: str) -> Candidate:
    """The member listed first that is not itself the baseline."""
    return next((member for member in members if member.label != baseline), members[0])


def best_of(family: Family, others: Sequence[Candidate], inputs: Inputs) -> Candidate:
    """The one that needs the least memory of those that run, ties by the FLOPs of a step; the first where none runs."""
    running = [other for other in others if runs(family, other, inputs)]
    return min(running, key=lambda other: (family.peak(other) or 0, other.known("step_flops") or 0), default=others[0])


def method_verdicts(groups: Sequence[Family], baseline: str, inputs: Inputs) -> list[Verdict]:
    """Every method that is no reference against LoRA and PiSSA, where they are equal in something; and the comparisons that are missing.

    References and bounds are what others are compared with; they are themselves compared with a baseline that is another method.
    """
    found: list[Verdict] = []
    missing: dict[tuple[str, str], Verdict] = {}
    matched: set[tuple[str, str]] = set()
    for family in groups:
        subject = first_subject(family.members, baseline)
        settled = subject.method in (*REFERENCES, *BOUNDS)
        others = [other for group in groups for other in group.members if other.setting == subject.setting]
        if settled:
            others = [other for other in others if other.label == baseline and other not in family.members]
        for other in others:
            equal = equalities(subject, other) if other.method in REFERENCES else []
            matched |= {(subject.label, comparison) for comparison in equal}
            foreign_baseline = [BY_LABEL] if other.label == baseline and other not in family.members else []
            if equal or foreign_baseline:
                found.append(pair_verdict(subject, other, inputs, comparison=" and ".join(equal + foreign_baseline)))
        if settled:
            continue
        references = [other for other in others if other.method in REFERENCES]
        wanted = COMPARISONS if references else ("equal rank, parameters or step cost",)
        missing |= {(subject.label, name): missing_verdict(subject, references, name, inputs) for name in wanted}
    return found + [verdict for key, verdict in missing.items() if key not in matched]


def pair_verdict(subject: Candidate, other: Candidate, inputs: Inputs, *, comparison: str) -> Verdict:
    """The method verdict on two candidates, with peaks from the best source that both have."""
    return compare(comparable([subject, other]), subject, other, inputs, kind="method", comparison=comparison)


def equalities(subject: Candidate, other: Candidate) -> list[str]:
    """In which of COMPARISONS the two are equal."""
    checks = {
        "equal rank": near(subject.rank, other.rank, EQUAL),
        "equal parameters": near(*both(subject, other, "adapter_parameters", "trainable_parameters"), EQUAL),
        "equal step cost": equal_step_cost(subject, other),
    }
    return [name for name in COMPARISONS if checks[name]]


def equal_step_cost(subject: Candidate, other: Candidate) -> bool:
    """Whether the adapters' own FLOPs of a step are equal, or the whole steps' where there is no closed form of both."""
    own = [candidate.value("step_flops", "contraction") for candidate in (subject, other)]
    if None not in own:
        return near(own[0], own[1], EQUAL)
    return near(subject.known("step_flops"), other.known("step_flops"), EQUAL_STEP)


def both(subject: Candidate, other: Candidate, *metrics: str) -> tuple[float | None, float | None]:
    """The first of the metrics that is known of both."""
    pairs = ((subject.known(metric), other.known(metric)) for metric in metrics)
    return next((pair for pair in pairs if None not in pair), (None, None))


def near(first: float | None, second: float | None, tolerance: float) -> bool:
    """Whether both are known and differ by no more than that fraction of the larger."""
    return first is not None and second is not None and abs(first - second) <= tolerance * max(first, second)


def missing_verdict(subject: Candidate, references: Sequence[Candidate], comparison: str, inputs: Inputs) -> Verdict:
    """That the run holds no reference for this comparison, and what would be one."""
    words = sentence_missing(subject, references, comparison)
    return replace(blank(subject, "method", inputs), sentence=words, comparison=comparison, decisive=False)
