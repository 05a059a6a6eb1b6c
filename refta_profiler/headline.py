"""The few lines at the head of a report: the three verdicts in words, kept apart. Names stand between backticks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from refta_profiler.units import format_bytes, format_percent
from refta_profiler.verdict_words import listing, ranks_of

if TYPE_CHECKING:
    from refta_profiler.comparison import Verdict

SAME = 0.01
IN_WORDS = {
    "reconstruct": "rebuilding a layer at a time",
    "reconstruct_recompute": "rebuilding with recomputation",
    "reconstruct_stack": "rebuilding the whole stack",
    "slices": "going slice by slice",
}
KINDS = {"order": "Order", "method": "Method", "task": "Task"}
LARGE = 0.25  # a step that is this much shorter or longer is named, whoever it is against
OUTCOMES = {
    "pays": "it pays off",
    "small": "a small gain",
    "same": "the same",
    "shorter": "the same memory in a shorter step",
    "costs": "it does not pay off",
    "unknown": "no verdict",
}
NOTHING = {
    "order": "No method of this run has two orders that can be compared.",
    "method": "No method of this run can be compared with LoRA or PiSSA.",
}


@dataclass(frozen=True)
class Line:
    """One line at the head: the verdict, and what stands behind it."""

    lead: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.lead} {self.detail}".strip()


def headline(verdicts: Iterable["Verdict"]) -> list[str]:
    """The lines, each with its kind in front: for every function and setting its order verdict, its method verdict, and the task's."""
    return [f"{KINDS[kind]}: {line}" for kind, lines in head(verdicts).items() for line in lines]


def head(verdicts: Iterable["Verdict"]) -> dict[str, list[Line]]:
    """The lines by kind: 'order', 'method', 'task'."""
    verdicts = list(verdicts)
    return {kind: lines_of(kind, verdicts) for kind in KINDS}


def lines_of(kind: str, verdicts: Sequence["Verdict"]) -> list[Line]:
    """The lines of one kind."""
    found = [verdict for verdict in verdicts if verdict.kind == kind]
    if kind == "task":
        return [Line(verdict.sentence) for verdict in found]
    compared = [verdict for verdict in found if verdict.against]
    lines = [series_line(series, varying(compared)) for series in in_series(compared)]
    lines += [Line(verdict.sentence) for verdict in found if not verdict.against]
    return [*lines, Line(evidence_words(compared))] if compared else lines or [Line(NOTHING[kind])]


def evidence_words(compared: Sequence["Verdict"]) -> str:
    """What the verdicts stand on: 'Peak memory is predicted for h100 (allocated bytes); step time there was not measured, …'."""
    target = compared[0].target
    sources = {verdict.source for verdict in compared}
    words = {"measured": f"measured on {target}", "dryrun": f"predicted for {target}"}
    memory = words[sources.pop()] if len(sources) == 1 else f"measured on {target} where all ran, otherwise predicted"
    quantity = "reserved" if all(verdict.quantity == "peak_reserved_bytes" for verdict in compared) else "allocated"
    known = [verdict for verdict in compared if verdict.time_difference_fraction is not None]
    alone = "; step time there is not known, so the memory verdict stands alone"
    missing = "" if len(known) == len(compared) else "; step time is not known of all of them" if known else alone
    return f"Peak memory is {memory} ({quantity} bytes){roofline_words(known)}{missing}."


def roofline_words(known: Sequence["Verdict"]) -> str:
    """'; step times are measured at batch 1, otherwise a roofline's, in which …', of verdicts with a time; '' where all are measured."""
    predicted = [verdict for verdict in known if verdict.time_source == "dryrun"]
    if not predicted:
        return ""
    limits = sorted({verdict.time_noise_fraction for verdict in predicted})
    under = " to ".join(format_percent(limit) for limit in dict.fromkeys((limits[0], limits[-1])))
    batches = sorted({verdict.batch for verdict in known if verdict.time_source == "measured"})
    both = " where both ran" if {verdict.batch for verdict in predicted} & set(batches) else ""
    measured = f"measured at batch {listing([str(batch) for batch in batches])}{both}, otherwise " if batches else ""
    return f"; step times are {measured}a roofline's, in which a difference under {under} is not told apart"


def varying(verdicts: Sequence["Verdict"]) -> set[str]:
    """Which of model, precision and sequence differ among the verdicts and so must be named."""
    return {name for name in ("model", "precision", "seq") if len({getattr(verdict, name) for verdict in verdicts}) > 1}


def in_series(verdicts: Sequence["Verdict"]) -> list[list["Verdict"]]:
    """The verdicts that differ in batch and opponent alone, in the order in which they came."""
    groups: dict[tuple[object, ...], list[Verdict]] = {}
    for verdict in verdicts:
        key = (verdict.model, verdict.subject, verdict.seq, verdict.precision, verdict.checkpointing, verdict.parallel)
        groups.setdefault(key, []).append(verdict)
    return list(groups.values())


def series_line(series: Sequence["Verdict"], named: set[str]) -> Line:
    """The verdict over all batches, then in detail at the middle batch and at the largest."""
    first = series[0]
    place = [f"{'With' if first.checkpointing else 'Without'} checkpointing"]
    place += ranks_of(first)
    place += [first.precision] if "precision" in named else []
    place += [f"sequence {first.seq}"] if "seq" in named else []
    place += [first.model] if "model" in named else []
    at_batches = [[verdict for verdict in series if verdict.batch == batch] for batch in notable_batches(series)]
    details = [detail(verdicts) for verdicts in at_batches] if first.kind == "order" else amounts(series)
    return Line(f"{', '.join(place)}, {overall(series)}.", " ".join(details))


def amounts(series: Sequence["Verdict"]) -> list[str]:
    """'Peak memory against `lora`: 0.9% less at batch 8 (2.78 GiB against 2.8 GiB), …', an opponent a sentence, then the times."""
    found = []
    for against in dict.fromkeys(verdict.against for verdict in series):
        shown = [verdict for verdict in series if verdict.against == against and verdict.batch in notable_batches(series)]
        parts = [amount_part(verdict) for verdict in shown if verdict.memory_difference_fraction is not None]
        found += [f"Peak memory against `{against}`: {', '.join(parts)}."] if parts else []
        found += times(shown)
    return found


def amount_part(verdict: "Verdict") -> str:
    """'0.9% less at batch 8 (2.78 GiB against 2.8 GiB)'."""
    sizes = f"{format_bytes(verdict.subject_bytes or 0)} against {format_bytes(verdict.against_bytes or 0)}"
    return f"{difference_of(verdict)} at batch {verdict.batch} ({sizes})"


def notable_batches(series: Sequence["Verdict"]) -> list[int]:
    """The batch in the middle, where differences are neither at their largest nor drowned, and the largest."""
    batches = sorted({verdict.batch for verdict in series})
    return sorted({middle(batches), batches[-1]})


def middle(batches: Sequence[int]) -> int:
    """The middle one of ascending batches, the lower of two: 8 of 1, 2, 4, 8, 16, 32, 64, 128."""
    return batches[(len(batches) - 1) // 2]


def overall(series: Sequence["Verdict"]) -> str:
    """'`shared` against its best other order (rebuilding with recomputation): the same at batch 1 to 128', for every decisive opponent."""
    decisive = sorted((verdict for verdict in series if verdict.decisive), key=lambda verdict: verdict.batch)
    if decisive[0].comparison == "best other order":
        opponents = listing(list(dict.fromkeys(name_of(verdict) for verdict in decisive)))
        return f"`{decisive[0].subject}` against its best other order ({opponents}): {outcomes_by_batch(decisive)}"
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in decisive:
        groups.setdefault((verdict.against, verdict.comparison), []).append(verdict)
    parts = [f"{name_of(found[0])} ({words_of(comparison)}): {outcomes_by_batch(found)}" for (_, comparison), found in groups.items()]
    return f"`{decisive[0].subject}` against {'; against '.join(parts)}"


def words_of(comparison: str) -> str:
    """'at equal rank and equal step cost', or the comparison's own words."""
    return f"at {comparison}" if comparison.startswith("equal") else comparison


def outcomes_by_batch(decisive: Sequence["Verdict"]) -> str:
    """'it pays off at batch 1 to 8, a small gain at batch 16 to 64, the same at batch 128'."""
    runs = [(name, [verdict.batch for verdict in group]) for name, group in groupby(decisive, key=lambda verdict: verdict.conclusion)]
    return ", ".join(f"{OUTCOMES[name]} at batch {span(batches)}" for name, batches in runs)


def span(batches: Sequence[int]) -> str:
    """'8' or '1 to 8'."""
    return str(batches[0]) if batches[0] == batches[-1] else f"{batches[0]} to {batches[-1]}"


def name_of(verdict: "Verdict") -> str:
    """The other order in words where there are some, otherwise the label."""
    words = IN_WORDS.get(verdict.against_order or "") if verdict.kind == "order" else None
    return words or f"`{verdict.against}`"


def standing(verdict: "Verdict") -> str:
    """How the subject's peak stands to the other's: 'less', 'more', 'same'; 'other fails', 'fails', 'neither fits'; 'unknown'."""
    fraction = verdict.memory_difference_fraction
    if verdict.fits == "neither":
        return "neither fits"
    if verdict.fits or fraction is None:
        known = {"pays": "other fails", "costs": "fails"} if verdict.fits in ("subject", "against") else {}
        return known.get(verdict.outcome, "unknown")
    return "same" if verdict.outcome == "same" or abs(fraction) < SAME else "less" if fraction < 0 else "more"


def detail(verdicts: Sequence["Verdict"]) -> str:
    """'At batch 8 `shared` needs 13% less peak memory than rebuilding the whole stack and 6% less than …; against … it is the same.'"""
    subject = verdicts[0].subject_order if verdicts[0].kind == "order" else verdicts[0].subject
    by_size = sorted(verdicts, key=lambda verdict: verdict.memory_difference_fraction or 0.0)
    parts: list[str] = []
    for name, words in WORDS.items():
        found = [verdict for verdict in by_size if standing(verdict) == name]
        parts += [words(found, not parts)] if found else []
    return " ".join([f"At batch {verdicts[0].batch} `{subject}` {'; '.join(parts)}.", *times(verdicts)])


def difference_part(verdicts: Sequence["Verdict"], first: bool) -> str:
    """'needs 13% less peak memory than … and 6% less than …'."""
    parts = [
        f"{difference_of(verdict)}{' peak memory' if first and not index else ''} than {name_of(verdict)}"
        for index, verdict in enumerate(verdicts)
    ]
    return f"{'' if first else 'it '}needs {listing(parts)}"


def difference_of(verdict: "Verdict") -> str:
    """'13% less'."""
    fraction = verdict.memory_difference_fraction or 0.0
    percent = format_percent(abs(fraction))
    return "the same" if percent == "0%" else f"{percent} {'less' if fraction < 0 else 'more'}"


def same_part(verdicts: Sequence["Verdict"], first: bool) -> str:
    """'needs the same peak memory as …', or after another part 'against … it is the same'."""
    names = listing([name_of(verdict) for verdict in verdicts])
    return f"needs the same peak memory as {names}" if first else f"against {names} it is the same"


def other_fails_part(verdicts: Sequence["Verdict"], first: bool) -> str:
    """'runs where … does not fit'."""
    return f"{'' if first else 'it '}runs where {listing([name_of(verdict) for verdict in verdicts])} does not fit"


def fails_part(verdicts: Sequence["Verdict"], first: bool) -> str:
    """'does not fit where … does'."""
    return f"{'' if first else 'it '}does not fit where {listing([name_of(verdict) for verdict in verdicts])} does"


def neither_part(verdicts: Sequence["Verdict"], first: bool) -> str:
    """'does not fit, nor does …', or after another part 'neither it nor … fits'."""
    names = [name_of(verdict) for verdict in verdicts]
    if first:
        return f"does not fit, nor {'do' if len(names) > 1 else 'does'} {listing(names)}"
    return f"neither it nor {' nor '.join(names)} fits"


def unknown_part(verdicts: Sequence["Verdict"], first: bool) -> str:
    """'cannot be compared with …'."""
    names = listing([name_of(verdict) for verdict in verdicts])
    return f"{'' if first else 'it '}cannot be compared with {names}, since not both ran"


WORDS = {
    "less": difference_part,
    "more": difference_part,
    "same": same_part,
    "other fails": other_fails_part,
    "fails": fails_part,
    "neither fits": neither_part,
    "unknown": unknown_part,
}


def times(verdicts: Sequence["Verdict"]) -> list[str]:
    """'Its step takes 8% less time than rebuilding with recomputation.' for the decisive comparisons, and for others where that is LARGE.

    Measured times and predicted ones have a sentence each.
    """
    known = [(verdict, time) for verdict in verdicts if (time := verdict.time_difference_fraction) is not None]
    known = [(verdict, time) for verdict, time in known if verdict.decisive or abs(time) >= LARGE]
    several = len({verdict.batch for verdict in verdicts}) > 1
    told = [(verdict, time) for verdict, time in known if abs(time) >= verdict.time_noise_fraction]
    sentences = []
    for source, takes in (("measured", "takes"), ("dryrun", "is predicted to take")):
        parts = [
            f"{time_part(time)} {name_of(verdict)}{f' at batch {verdict.batch}' if several else ''}"
            for verdict, time in told
            if verdict.time_source == source
        ]
        sentences += [f"Its step {takes} {listing(parts)}."] if parts else []
    return sentences


def time_part(fraction: float) -> str:
    """'8% less time than', 'the same time as'."""
    percent = format_percent(abs(fraction))
    return "the same time as" if percent == "0%" else f"{percent} {'less' if fraction < 0 else 'more'} time than"
