"""The section on the task: test scores beside what they cost, how the loss fell, and what may be said of differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from refta_profiler.evidence import BOUNDS, PEAKS, REFERENCES
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Block, Cell, Column, Figure, Items, Panel, Section, Series, Table, Text
from refta_profiler.report.tables import ABSENT, bytes_cell, count_cell, seconds_cell, text_cell
from refta_profiler.task import bootstrap
from refta_profiler.task.summary import WINDOW, Difference, Method, Summary
from refta_profiler.task.words import points_words, range_words, score_words, signed
from refta_profiler.units import format_count
from refta_profiler.verdict_words import listing

TONES = {bootstrap.BETTER: "pays", bootstrap.WORSE: "costs", bootstrap.OPEN: "unknown"}
MIB = 2**20


def task_section(material: Material) -> Section | None:
    """What was trained and tested; None where nothing was."""
    summary = material.training
    if summary is None:
        return None
    blocks: list[Block] = [Text(setting_words(summary))]
    missing = [f"`{one.label}` has no score: {one.failure or 'some of its training runs are missing'}." for one in unscored(summary)]
    if not summary.scored:
        return Section("task", "Does it still learn?", [*blocks, Items(missing or ["Nothing is trained yet."])])
    blocks += [Items(verdict_words(summary)), cost_figure(material, summary), scores_table(material, summary), losses_figure(summary)]
    blocks += [differences_table(summary)] if summary.differences else []
    blocks += [Items(missing)] if missing else []
    return Section("task", "Does it still learn?", blocks)


def unscored(summary: Summary) -> list[Method]:
    """Methods without a score."""
    return [one for one in summary.methods if one.label not in summary.scored]


def setting_words(summary: Summary) -> str:
    """What was trained on what, and how the learning rate was chosen."""
    sizes, shared = summary.shared["items"], summary.shared
    seeds = f"{summary.counted_seeds}, which say which examples are seen in which order, the head's first values and dropout"
    train, validation, test = (format_count(sizes[name]) for name in ("train", "validation", "test"))
    parts = [
        f"Every method was trained for {format_count(shared['steps'])} steps of {shared['batch']} of {train} examples from {seeds}: the "
        f"same for all methods. Tested on {test} items.",
        f"The learning rate is the one with the best {summary.metric} on {validation} validation items ({shared['lr_seeds']} of the "
        "seeds), for each method by itself; the test split had no part in it.",
    ]
    if shared.get("majority") is not None:
        parts.append(f"Always saying what is most common in train gives {score_words('accuracy', shared['majority'])}.")
    return " ".join([*parts, interval_words(summary)])


def interval_words(summary: Summary) -> str:
    """What the intervals are over, and what is said of them."""
    if len(summary.shared["seeds"]) == 1:
        return (
            "Intervals are 95% ones over test items alone, by a paired bootstrap: one seed says nothing of others, so that no method is "
            "called better or worse than another; that takes two seeds, and five to see small differences."
        )
    return (
        "Intervals are 95% ones over test items (a paired bootstrap) and seeds (Student's t, which few seeds make wide). “Not worse” means "
        "that at most half a point is lost, “the same” that neither gains more."
    )


def over_words(summary: Summary) -> str:
    """'seeds and items', or 'items alone' where there is one seed."""
    return "seeds and items" if len(summary.shared["seeds"]) > 1 else "items alone"


# ---- verdicts


def sure(summary: Summary) -> str:
    """'5 seeds, 1,500 items'."""
    return f"{summary.counted_seeds}, {format_count(summary.items)} items"


def verdict_words(summary: Summary) -> list[str]:
    """The findings in sentences, whatever they are: at equal parameters first, then against the bounds, then the best of all."""
    equal = [one for one in summary.differences if one.comparison == "equal parameters" and is_subject(summary, one)]
    nearest = [summary.decisive(one.label) for one in summary.methods if one.method not in (*REFERENCES, *BOUNDS)] if not equal else []
    found = [sentence(summary, one) for one in [*equal, *nearest] if one]
    found += equal_budget(summary, equal)
    found += [bound_words(summary, name) for name in ("full", "head") if against(summary, name)]
    return [*found, best_words(summary), *edge_words(summary)]


def is_subject(summary: Summary, one: Difference) -> bool:
    """Whether the difference is of a method that is no reference itself."""
    return summary.named(one.subject).method not in (*REFERENCES, *BOUNDS)


def sentence(summary: Summary, one: Difference) -> str:
    """'`a` is not told apart from `b` at equal parameters: +0.3 points (…), 5 seeds, 1,500 items.'"""
    verbs = {
        bootstrap.BETTER: "is better than",
        bootstrap.WORSE: "is worse than",
        bootstrap.SAME: "is the same as",
        bootstrap.NOT_WORSE: "is not worse than",
        bootstrap.OPEN: "is not told apart from",
    }
    how = f"at {one.comparison}" if one.comparison == "equal parameters" else f"({one.comparison})"
    return f"`{one.subject}` {verbs[one.outcome]} `{one.against}` {how}: {points_words(one.interval)}; {sure(summary)}."


def equal_budget(summary: Summary, equal: Sequence[Difference]) -> list[str]:
    """Whether ReFTA beats PiSSA with as many parameters, in so many words; nothing from one seed, which cannot tell."""
    found = [one for one in equal if summary.named(one.subject).method == "refta" and summary.named(one.against).method == "pissa"]
    if not found or not found[0].interval.over_seeds:
        return []
    better = [f"`{one.subject}`" for one in found if one.outcome == bootstrap.BETTER]
    tried = f"of {len(found)} settings tried ({sure(summary)})"
    if better:
        return [f"ReFTA beats PiSSA at equal budget here in {len(better)} {tried}: {listing(better)}."]
    return [f"ReFTA does not beat PiSSA at equal budget here: it is better in 0 {tried}."]


def against(summary: Summary, method: str) -> list[Difference]:
    """The differences of methods that are no reference against that bound."""
    return [one for one in summary.differences if is_subject(summary, one) and summary.named(one.against).method == method]


def bound_words(summary: Summary, method: str) -> str:
    """'Against `full`: 2 better, 7 worse, 1 not told apart (5 seeds, 1,500 items).'"""
    found = against(summary, method)
    counts = Counter(one.outcome for one in found)
    parts = [f"{counts[outcome]} {outcome}" for outcome in ORDER if counts[outcome]]
    return f"Of {len(found)} methods beside LoRA and PiSSA, against `{found[0].against}`: {', '.join(parts)} ({sure(summary)})."


ORDER = (bootstrap.BETTER, bootstrap.SAME, bootstrap.NOT_WORSE, bootstrap.OPEN, bootstrap.WORSE)


def best_words(summary: Summary) -> str:
    """The highest score, with the caution that goes with a maximum."""
    label, found = max(summary.intervals.items(), key=lambda entry: entry[1].value)
    text = f"{score_words(summary.metric, found.value)} ({range_words(summary.metric, found)})"
    return f"The highest mean is that of `{label}`, {text}; the highest of {len(summary.intervals)} is in part luck ({sure(summary)})."


def edge_words(summary: Summary) -> list[str]:
    """Which chosen learning rates are the least or the largest tried."""
    names = [f"`{one.label}` ({one.rate:g})" for one in summary.methods if one.at_edge]
    return [f"The learning rate is at the edge of those tried for {listing(names)}: these might do better with others."] if names else []


# ---- figures and tables


def cost_figure(material: Material, summary: Summary) -> Figure:
    """Scores against trained numbers, peak memory and step time, with intervals."""
    axes: list[tuple[str, str, Callable[[Method], float | None], str]] = [
        ("parameters", "trained numbers, the head included", lambda one: one.parameters, "log"),
        ("peak memory", "peak of a step (MiB)", lambda one: scaled(peak(material, one.label), MIB), "linear"),
        ("step time", "median step in training (ms)", lambda one: scaled(one.median("step_seconds"), 1e-3), "linear"),
    ]
    panels = []
    for title, label, value, scale in axes:
        series = [score_mark(summary, one, x) for one in summary.methods if one.label in summary.scored and (x := value(one))]
        panels += [Panel(title, label, y_words(summary), series, x_scale=scale)] if series else []
    few = min((one for one in summary.methods if one.label in summary.scored), key=lambda one: one.parameters or 0)
    caption = f"Test {summary.metric} against what it costs, with 95% intervals over {over_words(summary)} ({sure(summary)})."
    caption += f" {best_words(summary)}"
    caption += f" `{few.label}` trains the fewest numbers."
    return Figure("task-cost", caption, caption, panels)


def scaled(value: float | None, unit: float) -> float | None:
    """The value in that unit."""
    return None if value is None else value / unit


def y_words(summary: Summary) -> str:
    """What the score's axis is."""
    return "test accuracy (%)" if summary.metric == "accuracy" else "test correlation"


def in_figure(summary: Summary, value: float) -> float:
    """The score as the axis has it."""
    return 100 * value if summary.metric == "accuracy" else value


def score_mark(summary: Summary, one: Method, x: float) -> Series:
    """A mark with its interval."""
    found = summary.intervals[one.label]
    value, low, high = (in_figure(summary, number) for number in (found.value, found.low, found.high))
    return Series(one.label, [(x, value)], joined=False, intervals=[(low, high)])


def peak(material: Material, label: str) -> float | None:
    """The step's peak at the batch that was trained, measured where it is, otherwise predicted for the device that trained."""
    device = next((row.target for row in material.rows if row.metric == "training_steps"), material.target)
    first = next((row for row in material.rows if row.label == label and row.metric == "training_steps"), None)
    for metric in PEAKS:
        for source in ("measured", "dryrun"):
            for row in material.rows:
                if first and (row.point, row.metric, row.source, row.target) == (first.point, metric, source, device) and row.value:
                    return row.value
    return None


def losses_figure(summary: Summary) -> Figure:
    """Training loss by step: references and bounds in one panel, the others in the next."""
    done = [one for one in summary.methods if one.label in summary.scored]
    known = [one for one in done if one.method in (*REFERENCES, *BOUNDS)]
    panels = []
    for title, members in (("references and bounds", known), ("the others", [one for one in done if one not in known])):
        series = [Series(one.label, [(step + 1.0, loss) for step, loss in enumerate(one.losses)]) for one in members]
        panels += [Panel(title, "step", "training loss", series, x_scale="linear")] if series else []
    ends = {one.label: one.losses[-1] for one in summary.methods if one.label in summary.scored}
    low, high = (choose(ends, key=lambda label: ends[label]) for choose in (min, max))
    caption = f"Training loss, the mean over the last {WINDOW} steps and {summary.counted_seeds}: in the end {ends[low]:.3f} for "
    caption += f"`{low}`, the lowest, and {ends[high]:.3f} for `{high}`, the highest."
    return Figure("task-losses", caption, caption, panels)


def scores_table(material: Material, summary: Summary) -> Table:
    """A row a method: its score, what it was chosen by, and what it costs."""
    score = summary.metric
    columns = [Column("method"), Column(f"test {score}", "", f"test_{score}", True), Column("95% interval"), Column("seeds, least to most")]
    columns += [Column(f"validation {score}", "", f"validation_{score}", True), Column("learning rate", "", "learning_rate", True)]
    columns += [Column("tried"), Column("trained numbers", "", "trained", True), Column("peak of a step", "MiB", "peak_bytes", True)]
    columns += [Column("step in training", "", "training_step_seconds", True), Column("training", "", "training_seconds", True)]
    limit = summary.shared["to_loss"]
    columns += (
        [Column(f"steps to loss {limit:g}", "", "steps_to_loss", True), Column("time to it", "", "seconds_to_loss", True)] if limit else []
    )
    rows = [score_row(material, summary, one) for one in summary.methods if one.label in summary.scored]
    caption = f"Test {score} of every method, the mean over seeds ({sure(summary)}). {best_words(summary)}"
    return Table("task", caption, columns, rows)


def score_row(material: Material, summary: Summary, one: Method) -> list[Cell]:
    """One method."""
    found = summary.intervals[one.label]
    own = {row.metric: row.value for row in material.rows if row.point == one.point and row.label == one.label and row.value is not None}
    each = [sum(run.outcomes) / len(run.outcomes) for run in one.chosen] if summary.metric == "accuracy" else []
    spread = f"{100 * min(each):.1f} to {100 * max(each):.1f}%" if each else ""
    validation = own.get(f"validation_{summary.metric}")
    cells = [
        text_cell(one.label),
        Cell(score_words(summary.metric, found.value), found.value),
        text_cell(range_words(summary.metric, found)),
        text_cell(spread),
        ABSENT if validation is None else Cell(score_words(summary.metric, validation), validation),
        ABSENT if one.rate is None else Cell(f"{one.rate:g}{' (edge)' if one.at_edge else ''}", one.rate),
        text_cell(", ".join(f"{rate:g}" for rate in one.rates)),
        count_cell(one.parameters),
        bytes_cell(peak(material, one.label)),
        seconds_cell(one.median("step_seconds")),
        seconds_cell(one.median("seconds")),
    ]
    limits = [count_cell(own.get("steps_to_loss")), seconds_cell(own.get("seconds_to_loss"))] if summary.shared["to_loss"] else []
    return [*cells, *limits]


def differences_table(summary: Summary) -> Table:
    """Every comparison that was made."""
    columns = [Column("method"), Column("against"), Column("equal in"), Column("difference", "points", "difference", True)]
    columns += [Column("from", "points", "low", True), Column("to", "points", "high", True), Column("outcome")]
    rows: list[list[Cell]] = []
    for one in summary.differences:
        numbers = [Cell(signed(value), value) for value in (one.interval.value, one.interval.low, one.interval.high)]
        outcome = Cell(one.outcome, one.outcome, TONES.get(one.outcome, "same"))
        rows.append([text_cell(one.subject), text_cell(one.against), text_cell(one.comparison), *numbers, outcome])
    counts = Counter(one.outcome for one in summary.differences)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ORDER if counts[outcome])
    caption = (
        f"All {len(rows)} comparisons ({sure(summary)}): {told}. Each interval holds at 95% by itself; of so many, some would exclude 0 "
    )
    caption += "by chance."
    return Table("task-differences", caption, columns, rows, folded=True)
