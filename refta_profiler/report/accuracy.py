"""The section that holds predictions against measurements: only of the same point, on the device that measured it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from refta_profiler.evidence import Candidate, families
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Cell, Column, Figure, Panel, Section, Series, Table, Text
from refta_profiler.report.tables import count_cell, difference_cell, text_cell
from refta_profiler.results import METRICS
from refta_profiler.units import format_bytes, format_count, format_flops, format_percent, format_seconds

COMPARED = (
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "static_bytes",
    "kept_bytes",
    "communicated_bytes",
    "trainable_parameters",
    "forward_flops",
    "step_flops",
    "step_seconds",
)
WRITTEN = {"B": format_bytes, "count": format_count, "FLOP": format_flops, "s": format_seconds}


@dataclass(frozen=True)
class Pair:
    """One metric of one point, predicted for a device and measured on it."""

    candidate: Candidate
    target: str
    metric: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How far the prediction is from the measurement, as a fraction of the measurement."""
        return self.predicted / self.measured - 1


def pairs(material: Material) -> list[Pair]:
    """Every metric that was both predicted for a device and measured on it, in the scenario's order."""
    found = []
    for target in material.measured_targets:
        for candidate in material.candidates(target):
            for metric in COMPARED:
                predicted, measured = (candidate.value(metric, source) for source in ("dryrun", "measured"))
                if predicted is not None and measured:
                    found.append(Pair(candidate, target, metric, predicted, measured))
    return found


def accuracy_section(material: Material) -> Section:
    """Predicted beside measured, with the median and the worst error stated; says so where nothing was measured."""
    found = pairs(material)
    if not found:
        text = (
            "Nothing was both predicted and measured on one device in this run: how far its predictions can be trusted, another must show."
        )
        return Section("accuracy", "Predicted beside measured", [Text(text)])
    blocks = [
        summary_table(found),
        *error_figure(material, found),
        *differences_figure(material),
        *differences_table(material),
        pairs_table(material, found),
    ]
    return Section("accuracy", "Predicted beside measured", [Text(accuracy_words(found)), *blocks])


def accuracy_words(found: Sequence[Pair]) -> str:
    """The finding: median and worst error of peak memory, and where the worst is."""
    peaks = [pair for pair in found if pair.metric == "peak_allocated_bytes"]
    if not peaks:
        return "No peak memory was both predicted and measured."
    worst = max(peaks, key=lambda pair: abs(pair.error))
    targets = ", ".join(dict.fromkeys(pair.target for pair in peaks))
    middle = format_percent(median(abs(pair.error) for pair in peaks))
    where = f"`{worst.candidate.label}` at batch {worst.candidate.setting.batch}"
    text = (
        f"Peak memory on {targets} was predicted with a median error of {middle} and at worst {format_percent(abs(worst.error))} ({where})"
    )
    return f"{text}, over {len(peaks)} points. Each measured number stands beside the prediction for the same point on the same device."


def summary_table(found: Sequence[Pair]) -> Table:
    """Median and worst error by device and metric."""
    columns = [Column("metric"), Column("device"), Column("points", "", "points", True), Column("median error", "", "median_error", True)]
    columns += [Column("worst error", "", "worst_error", True), Column("worst at")]
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in found:
        groups.setdefault((pair.metric, pair.target), []).append(pair)
    rows = [summary_row(metric, target, members) for (metric, target), members in groups.items()]
    return Table("accuracy", "Errors of the predictions, as fractions of what was measured, without their signs.", columns, rows)


def summary_row(metric: str, target: str, members: Sequence[Pair]) -> list[Cell]:
    """One metric on one device."""
    worst = max(members, key=lambda pair: abs(pair.error))
    sizes = [median(abs(pair.error) for pair in members), abs(worst.error)]
    place = f"{worst.candidate.label}, batch {worst.candidate.setting.batch}" if worst.error else ""
    return [
        text_cell(metric),
        text_cell(target),
        count_cell(len(members)),
        *(Cell(format_percent(size), size) for size in sizes),
        text_cell(place),
    ]


def error_figure(material: Material, found: Sequence[Pair]) -> list[Figure]:
    """The error of every peak against its size."""
    peaks = [pair for pair in found if pair.metric == "peak_allocated_bytes"]
    panels = []
    for target in dict.fromkeys(pair.target for pair in peaks):
        members = [pair for pair in peaks if pair.target == target]
        points = {
            name: [(pair.measured / 2**30, 100 * pair.error) for pair in members if pair.candidate.label == name]
            for name in material.labels
        }
        series = [Series(name, sorted(values), joined=False) for name, values in points.items() if values]
        panels.append(Panel(f"measured on {target}", "measured peak (GiB)", "predicted less measured (%)", series, x_scale="linear"))
    caption = f"Error of every predicted peak against its size. {accuracy_words(found).split(' Each ')[0]}"
    return [Figure("errors", caption, caption, panels)] if panels else []


def differences_figure(material: Material) -> list[Figure]:
    """Predicted against measured differences, a mark a pair: those on the line are exact."""
    panels, worst = [], 0.0
    for target in material.measured_targets:
        marks: dict[str, list[tuple[float, float]]] = {}
        for family in families(material.candidates(target)):
            subject = family.members[0]
            for other in family.members[1:]:
                predicted, measured = (difference(subject, other, source) for source in ("dryrun", "measured"))
                if predicted is not None and measured is not None:
                    marks.setdefault(other.label, []).append((100 * measured, 100 * predicted))
                    worst = max(worst, abs(predicted - measured))
        if marks:
            series = [Series(name, sorted(points), joined=False) for name, points in marks.items()]
            panels.append(
                Panel(f"peaks on {target}", "measured difference (%)", "predicted difference (%)", series, x_scale="linear", diagonal=True)
            )
    caption = (
        "Differences in peak memory of the order listed first against each other order, predicted and measured: at worst "
        f"{format_percent(worst)} of the peak apart. Marks on the line are exact."
    )
    return [Figure("differences", caption, caption, panels)] if panels else []


def differences_table(material: Material) -> list[Table]:
    """Predicted against measured *differences* between the orders of a function: what the verdicts stand on."""
    columns = [Column("order"), Column("against"), Column("setting"), Column("batch", "", "batch", True), Column("device")]
    columns += [Column(name, "", key, True) for name, key in (("predicted", "predicted_difference"), ("measured", "measured_difference"))]
    rows = [row for target in material.measured_targets for row in difference_rows(material, target)]
    caption = "Differences in peak memory between two orders of one function, predicted and measured."
    return [Table("differences", caption, columns, rows, folded=True)] if rows else []


def difference_rows(material: Material, target: str) -> list[list[Cell]]:
    """The rows of one device: the order listed first against each other order."""
    rows = []
    for family in families(material.candidates(target)):
        subject = family.members[0]
        for other in family.members[1:]:
            found = [difference(subject, other, source) for source in ("dryrun", "measured")]
            if None not in found:
                place = [text_cell(material.setting_words(subject.setting)), count_cell(subject.setting.batch), text_cell(target)]
                rows.append([text_cell(subject.label), text_cell(other.label), *place, *(difference_cell(fraction) for fraction in found)])
    return rows


def difference(subject: Candidate, other: Candidate, source: str) -> float | None:
    """The subject's peak against the other's, as a fraction; None where one is not known."""
    ours, theirs = (candidate.value("peak_allocated_bytes", source) for candidate in (subject, other))
    return ours / theirs - 1 if ours is not None and theirs else None


def pairs_table(material: Material, found: Sequence[Pair]) -> Table:
    """Every pair."""
    columns = [Column("method"), Column("setting"), Column("batch", "", "batch", True), Column("device"), Column("metric")]
    columns += [Column("predicted", "", "predicted", True), Column("measured", "", "measured", True), Column("error", "", "error", True)]
    rows = [
        [
            text_cell(pair.candidate.label),
            text_cell(material.setting_words(pair.candidate.setting)),
            count_cell(pair.candidate.setting.batch),
            text_cell(pair.target),
            text_cell(pair.metric),
            *(Cell(WRITTEN[METRICS[pair.metric].unit](value), value) for value in (pair.predicted, pair.measured)),
            difference_cell(pair.error),
        ]
        for pair in found
    ]
    return Table("pairs", "Every number that was both predicted and measured, on the device that measured it.", columns, rows, folded=True)
