"""A comparison in one sentence that can stand alone. Names stand between backticks, for a writer to set in its own way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refta_profiler import parallel
from refta_profiler.evidence import Candidate
from refta_profiler.units import format_bytes, format_count, format_percent

if TYPE_CHECKING:
    from refta_profiler.comparison import Verdict

CONCLUSIONS = {
    "pays": "it pays off",
    "small": "a small gain",
    "same": "no difference that counts",
    "shorter": "the same memory in a shorter step",
    "costs": "it does not pay off",
    "unknown": "no verdict",
}
FITS = {"subject": "does not", "against": "does"}
QUANTITIES = {"peak_reserved_bytes": "reserved by the allocator", "peak_allocated_bytes": "allocated"}


def listing(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else list(parts))


def setting_words(verdict: "Verdict") -> str:
    """'batch 8, fp32, without checkpointing' and the sequence length where there is one."""
    parts = [f"batch {verdict.batch}", f"sequence {verdict.seq}" if verdict.seq else "", verdict.precision]
    return ", ".join(
        [part for part in parts if part] + [f"{'with' if verdict.checkpointing else 'without'} checkpointing", *ranks_of(verdict)]
    )


def ranks_of(setting: Any) -> list[str]:
    """['DDP over 2 ranks'] where a step is spread over ranks, otherwise []."""
    return [parallel.words(setting.parallel)] if setting.parallel else []


def sentence(verdict: "Verdict") -> str:
    """The whole comparison in one sentence that can stand alone, with the amounts behind the fraction and what is missing."""
    comparison = f", at {verdict.comparison}" if verdict.comparison.startswith("equal") else ""
    return f"At {setting_words(verdict)}{comparison}: {memory_words(verdict)}; {time_words(verdict)}: {CONCLUSIONS[verdict.conclusion]}."


def memory_words(verdict: "Verdict") -> str:
    """'`a` needs 6% less peak memory than `b` (2.78 against 2.95 GiB, predicted)'."""
    subject, against = f"`{verdict.subject}`", f"`{verdict.against}`"
    if verdict.fits in ("subject", "against") and verdict.outcome != "unknown":
        return f"{subject} {'fits where' if verdict.fits == 'subject' else 'does not fit where'} {against} {FITS[verdict.fits]}"
    if verdict.memory_difference_fraction is None or verdict.outcome == "unknown":
        return f"{subject} and {against} cannot be compared, {missing_peak(verdict)}"
    amounts = f"{format_bytes(verdict.subject_bytes or 0)} against {format_bytes(verdict.against_bytes or 0)}, {evidence_words(verdict)}"
    return f"{subject} needs {difference_words(verdict.memory_difference_fraction)} peak memory {joint(verdict)} {against} ({amounts})"


def missing_peak(verdict: "Verdict") -> str:
    """Whose peak is not known."""
    unknown = [
        f"`{name}`" for name, size in ((verdict.subject, verdict.subject_bytes), (verdict.against, verdict.against_bytes)) if size is None
    ]
    return f"{listing(unknown)} did not run or has no peak" if unknown else "neither fits"


def joint(verdict: "Verdict") -> str:
    """'as' after 'the same', otherwise 'than'."""
    return "as" if format_percent(verdict.memory_difference_fraction or 0.0) == "0%" else "than"


def difference_words(fraction: float) -> str:
    """'6% less', '3% more' or 'the same'."""
    percent = format_percent(abs(fraction))
    return "the same" if percent == "0%" else f"{percent} {'less' if fraction < 0 else 'more'}"


def evidence_words(verdict: "Verdict") -> str:
    """'predicted, allocated' or 'measured, reserved by the allocator'."""
    return f"{'measured' if verdict.source == 'measured' else 'predicted'}, {QUANTITIES[verdict.quantity]}"


def time_words(verdict: "Verdict") -> str:
    """What the step takes, measured or predicted, or that neither is known."""
    time = verdict.time_difference_fraction
    if time is None:
        return f"step time on {verdict.target} is not known, the memory verdict stands alone"
    predicted = verdict.time_source == "dryrun"
    takes = "its step is predicted to take" if predicted else "its step takes"
    if abs(time) < verdict.time_noise_fraction:
        noise = format_percent(verdict.time_noise_fraction)
        return f"{takes} about the same time" if predicted else f"{takes} the same time within the noise ({noise})"
    percent = format_percent(abs(time))
    return f"{takes} the same time" if percent == "0%" else f"{takes} {percent} {'less' if time < 0 else 'more'} time"


def sentence_missing(subject: Candidate, references: Sequence[Candidate], comparison: str) -> str:
    """That the run has no reference that is equal in this, what each one has instead, and for parameters which rank would do."""
    wanted = f"No comparison at {comparison} for `{subject.label}`"
    if not references:
        return f"{wanted}: the scenario has no lora or pissa entry."
    metric = {"equal rank": "rank", "equal parameters": "adapter_parameters", "equal step cost": "step_flops"}[comparison]
    parts = [f"`{reference.label}` has {amount(reference, metric)}" for reference in references]
    hints = [rank_hint(subject, references[0])] if comparison == "equal parameters" else []
    return f"{wanted}: it has {amount(subject, metric)}, {listing(parts)}{'; '.join(['', *filter(None, hints)])}."


def rank_hint(subject: Candidate, reference: Candidate) -> str:
    """The rank at which the reference, whose parameters grow with its rank, would have as many; or the subject, if its own do."""
    ours, theirs = (candidate.known("adapter_parameters") for candidate in (subject, reference))
    if not (ours and theirs and subject.rank and reference.rank):
        return ""
    if (rank := round(reference.rank * ours / theirs)) >= 1 and abs(rank * theirs / reference.rank / ours - 1) <= 0.1:
        return f"at rank {rank} `{reference.label}` would have as many"
    return f"at rank {round(subject.rank * theirs / ours)} `{subject.label}` would have as many, if its count grows with its rank"


def amount(candidate: Candidate, metric: str) -> str:
    """The rank, the parameters or the adapter's step FLOPs of a candidate, in words."""
    if metric == "rank":
        return "no rank" if candidate.rank is None else f"rank {candidate.rank}"
    if metric == "adapter_parameters":
        count = candidate.known("adapter_parameters") or candidate.known("trainable_parameters")
        return "an unknown number of parameters" if count is None else f"{format_count(count)} parameters"
    flops = candidate.value("step_flops", "contraction")
    return "no closed form of its step" if flops is None else f"{flops / 1e9:,.4g} GFLOP of its own a step"
