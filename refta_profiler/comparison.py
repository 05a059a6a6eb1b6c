"""One comparison of two labels at one setting: how their peaks and step times differ, and what that comes to."""

from dataclasses import dataclass, replace

from refta_profiler.evidence import Candidate, Family
from refta_profiler.statistics import floor_of_two
from refta_profiler.verdict_words import sentence

PAYS = 0.05  # of the whole step's peak; this and the next two are design.md's
SMALL = 0.01
SLOWER = 0.02  # a step that takes longer than this does not pay, however little memory it needs
ROOFLINE = 0.10  # a predicted difference of step times below this is not told apart: a roofline knows no kernel's own efficiency
LAUNCHES = 0.30  # and below this where launches bound the step: what the host takes for them depends on the host


@dataclass(frozen=True)
class Verdict:
    """One label against another at one setting. Differences are of `subject` against `against`: negative where the subject needs less."""

    kind: str  # order, method or task
    model: str
    target: str
    batch: int
    seq: int | None
    precision: str
    checkpointing: bool
    subject: str
    against: str
    memory_difference_fraction: float | None
    memory_difference_bytes: int | None
    time_difference_fraction: float | None  # from where `time_source` says
    outcome: str  # pays, small, same, costs or unknown
    sentence: str
    quantity: str  # peak_reserved_bytes or peak_allocated_bytes
    source: str = "dryrun"
    comparison: str = ""  # which comparison of its kind this is
    decisive: bool = True  # whether it is the comparison that the outcome of its kind rests on
    subject_order: str | None = None
    against_order: str | None = None
    subject_bytes: int | None = None
    against_bytes: int | None = None
    time_source: str = ""  # measured or dryrun; '' where no time is known
    time_noise_fraction: float = 0.0  # a difference of step times below this, in its direction, is not told apart
    parallel: str = ""  # the ranks that the step is spread over, each of which needs these bytes
    fits: str = ""  # 'subject' or 'against' where that one alone fits the device, 'neither', or '' where nothing speaks against both

    @property
    def conclusion(self) -> str:
        """The outcome as words have it: 'shorter' where memory is the same and the step told apart as more than 2% shorter."""
        time = self.time_difference_fraction
        shorter = time is not None and time < -max(SLOWER, self.time_noise_fraction)
        return "shorter" if self.outcome == "same" and shorter else self.outcome


@dataclass(frozen=True)
class Inputs:
    """What every comparison of a run shares."""

    target: str
    memory_bytes: int | None
    errors: dict[frozenset[str], float]


def outcome(memory: float, time: float | None, *, indistinct: float = 0.0, noise: float = 0.0) -> str:
    """'pays', 'small', 'same' or 'costs' for differences as fractions, negative where less. Without a time the memory stands alone.

    By design.md: pays from 5% less memory on, small from 1%, the same below that or inside `indistinct`; and never with a step more than 2%
    longer, unless that is within the noise. So outcome(-0.06, 0.01) is 'pays', outcome(-0.06, 0.03) is 'costs'.
    """
    slower = time is not None and time > max(SLOWER, noise)
    alike = abs(memory) < max(SMALL, indistinct) - 1e-12
    if slower or (memory > 0 and not alike):
        return "costs"
    return "same" if alike else "pays" if memory <= -PAYS + 1e-12 else "small"


def runs(family: Family, candidate: Candidate, inputs: Inputs) -> bool:
    """Whether the candidate has a peak, and one that fits the target where its memory is known."""
    peak = family.peak(candidate)
    return peak is not None and (inputs.memory_bytes is None or peak <= inputs.memory_bytes)


def step_time(subject: Candidate, against: Candidate) -> tuple[float | None, float, str]:
    """The difference of the step times as a fraction, what of it cannot be told apart, and the source of both; (None, 0, '') if unknown.

    The measured noise is that of the two alone, each with its own, in the direction of the difference. A measured time whose noise is known
    not to be known (timed in one process) is not judged: it counts as unknown.
    """
    for source in ("measured", "dryrun"):
        ours, theirs = (candidate.value("step_seconds", source) for candidate in (subject, against))
        if source == "measured" and any(candidate.lacks_noise for candidate in (subject, against)):
            continue
        if ours is not None and theirs:
            difference = ours / theirs - 1
            noise = measured_noise(subject, against, difference) if source == "measured" else predicted_noise(subject, against)
            return difference, noise, source
    return None, 0.0, ""


def measured_noise(subject: Candidate, against: Candidate, difference: float) -> float:
    """What of a measured difference of step times cannot be told apart; where one alone has a noise floor, both have it."""
    floors = [floor for one in (subject, against) if (floor := one.value("noise_fraction", "measured")) is not None]
    return floor_of_two(floors[0], floors[-1], difference) if floors else 0.0


def predicted_noise(subject: Candidate, against: Candidate) -> float:
    """What of a predicted difference of step times cannot be told apart: more where launches take a third of a step."""
    shares = [
        (one.value("launch_bound_seconds", "dryrun") or 0.0) / (one.value("step_seconds", "dryrun") or 1.0) for one in (subject, against)
    ]
    return LAUNCHES if max(shares) > 1 / 3 else ROOFLINE


def compare(family: Family, subject: Candidate, against: Candidate, inputs: Inputs, *, kind: str, comparison: str) -> Verdict:
    """The verdict on two candidates of a family, or of two families put together with `comparable`."""
    ours, theirs = family.peak(subject), family.peak(against)
    fraction = ours / theirs - 1 if ours is not None and theirs else None
    time, noise, time_source = step_time(subject, against)
    fits = which_fits(family, subject, against, inputs)
    result = {"subject": "pays", "against": "costs"}.get(fits, "unknown")
    if not fits and fraction is not None:
        indistinct = 2 * inputs.errors.get(frozenset((subject.label, against.label)), 0.0) if family.source == "dryrun" else 0.0
        result = outcome(fraction, time, indistinct=indistinct, noise=noise)
    elif not runs(family, subject if fits == "subject" else against, inputs):
        result = "unknown"
    verdict = replace(
        blank(subject, kind, inputs),
        against=against.label,
        against_order=against.order,
        memory_difference_fraction=fraction,
        memory_difference_bytes=ours - theirs if ours is not None and theirs is not None else None,
        time_difference_fraction=time,
        time_source=time_source,
        time_noise_fraction=noise,
        outcome=result,
        quantity=family.quantity,
        source=family.source,
        comparison=comparison,
        fits=fits,
        subject_bytes=ours,
        against_bytes=theirs,
    )
    return replace(verdict, sentence=sentence(verdict))


def blank(subject: Candidate, kind: str, inputs: Inputs) -> Verdict:
    """A verdict on the subject that knows nothing yet."""
    return Verdict(
        kind=kind,
        model=subject.setting.model,
        target=inputs.target,
        batch=subject.setting.batch,
        seq=subject.setting.seq or None,
        precision=subject.setting.precision,
        checkpointing=subject.setting.checkpointing,
        parallel=subject.setting.parallel,
        subject=subject.label,
        against="",
        memory_difference_fraction=None,
        memory_difference_bytes=None,
        time_difference_fraction=None,
        outcome="unknown",
        sentence="",
        quantity="peak_allocated_bytes",
        subject_order=subject.order,
    )


def which_fits(family: Family, subject: Candidate, against: Candidate, inputs: Inputs) -> str:
    """Which of the two alone fits the device: 'subject', 'against' or 'neither'; '' where both do or nothing speaks against it."""
    subject_fits, against_fits = (not too_big(family, candidate, inputs) for candidate in (subject, against))
    if subject_fits == against_fits:
        return "" if subject_fits else "neither"
    return "subject" if subject_fits else "against"


def too_big(family: Family, candidate: Candidate, inputs: Inputs) -> bool:
    """Whether the candidate ran out of memory or, by its peak, would."""
    peak = family.peak(candidate)
    return candidate.failure == "oom" or (peak is not None and inputs.memory_bytes is not None and peak > inputs.memory_bytes)
