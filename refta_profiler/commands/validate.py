"""How far are the predictions from what was measured? Errors of values and of differences, and whether the right one wins each pair.

RUN is a run's folder; or, with --published FILE and --scenario S, S is predicted here and held against a CSV of peaks that others published
(columns form, cores, peak_gib; the scenario's labels are "FORM CORES"). With --max-error, exit code 4 where
the worst error of bytes, FLOPs or counts is larger; times are shown and not gated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from refta_profiler import own_code, plan, scenario, validation
from refta_profiler.commands.answer import Answer, table
from refta_profiler.commands.options import JsonOption
from refta_profiler.errors import ScenarioError
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.units import format_bytes, format_percent, parse_bytes
from refta_profiler.validation import Validation

SIGNIFICANT = 3  # digits of an error in percent


def command(
    run: Annotated[Path | None, typer.Argument(help="a run's folder", metavar="[RUN]")] = None,
    published: Annotated[Path | None, typer.Option(help="a CSV of published peaks, with --scenario")] = None,
    scenario_: Annotated[Path | None, typer.Option("--scenario", help="the setting of the published peaks")] = None,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="run the code of your own that methods named python call")] = False,
    less: Annotated[str | None, typer.Option(help="bytes to take off every published peak, e.g. 588MiB")] = None,
    max_error: Annotated[
        str | None,
        typer.Option(
            "--max-error", help="e.g. 2%: exit code 4 where the worst error of bytes or FLOPs is larger; times are shown, not gated"
        ),
    ] = None,
    json_: JsonOption = False,
) -> Answer:
    """The errors of a run's predictions, or of a scenario's against published peaks."""
    limit = None if max_error is None else share(max_error)
    if published is not None and scenario_ is not None and run is None:
        rows = predicted(scenario_, own_code.permission(allow_code))
        found = [validation.from_published(rows, published, less=parse_bytes(less or "0"))]
    elif run is not None and published is None and scenario_ is None:
        _of_published_alone({"--less": less is not None, "--allow-code": allow_code})
        found = validation.from_rows(RunFolder.open(run).rows())
    else:
        raise ScenarioError("validate takes a RUN, or --published FILE with --scenario S")
    if not found:
        how = f"run its scenario with --resume {run}, without --only and without `measure: {{when: never}}`, where it can be measured"
        raise ScenarioError(f"{run}: nothing was both predicted and measured on one device; {how}")
    return Answer([as_data(one) for one in found], "\n\n".join(as_text(one) for one in found), failed(found, limit))


def _of_published_alone(given: dict[str, bool]) -> None:
    """Nothing; a ScenarioError for an option that says something of published peaks where a run is asked about."""
    for option in (name for name, there in given.items() if there):
        raise ScenarioError(f"{option}: is of use with --published FILE and --scenario S alone, not of a RUN; leave it out")


def share(text: str, option: str = "--max-error") -> float:
    """The fraction that a text such as '2%' or '0.02' means; ScenarioError that names the option where it means none."""
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ScenarioError(f"{option}: '{text}'; write a percentage such as 2%, or a fraction such as 0.02")
    return value


def predicted(path: Path, code: own_code.Look = own_code.refuse) -> list[Row]:
    """The dry run's rows of every point of a scenario."""
    from refta_profiler import run as running  # start-up: torch

    points = plan.points(scenario.load(path, code=code))
    rows: list[Row] = []
    for _, (_, dry) in running.in_processes([(point, point.target, "dryrun") for point in points]):
        rows += dry
    return rows


def failed(found: Sequence[Validation], limit: float | None) -> str:
    """Why the gate does not hold, if it was asked for: the metric with the largest error beyond the limit."""
    bad = [] if limit is None else [one for one in found if one.worst > limit and deterministic(one.metric)]
    if not bad or limit is None:
        return ""
    worst = max(bad, key=lambda one: one.worst)
    return f"the worst error of {worst.metric} is {percent(worst.worst)}, more than {percent(limit)}"


def deterministic(metric: str) -> bool:
    """Whether a metric is held to the limit: all but times, which noise moves."""
    return METRICS[metric].unit != "s"


def percent(fraction: float) -> str:
    """A fraction in percent with enough digits for small errors: 0.00148 is '0.148%'."""
    return f"{100 * fraction:.{SIGNIFICANT}g}%" if fraction else format_percent(0.0)


def as_data(one: Validation) -> dict[str, Any]:
    """The validation of one metric as data."""
    right, total = one.winners()
    summary = {"metric": one.metric, "unit": METRICS[one.metric].unit, "points": len(one.pairs), "worst": one.worst, "median": one.median}
    more = {"percentile_95": one.percentile_95, "spread": one.spread, "worst_difference": one.worst_difference}
    pairs = [{"name": pair.name, "predicted": pair.predicted, "measured": pair.measured, "error": pair.error} for pair in one.pairs]
    return summary | more | {"winners_right": right, "winners": total, "pairs": pairs}


def as_text(one: Validation) -> str:
    """The validation of one metric as a table and a summary."""
    shown = format_bytes if METRICS[one.metric].unit == "B" else lambda value: f"{value:.6g}"
    rows = [("point", "predicted", "measured", "error")]
    rows += [(pair.name, shown(pair.predicted), shown(pair.measured), f"{100 * pair.error:+.3f}%") for pair in one.pairs]
    right, total = one.winners()
    summary = (
        f"{one.metric}: {len(one.pairs)} point{'s'[: len(one.pairs) != 1]}; error: median {percent(one.median)}, "
        f"95th percentile {percent(one.percentile_95)}, worst {percent(one.worst)}, spread {percent(one.spread)}; "
        f"worst error of a difference {shown(one.worst_difference)}; "
        f"the smaller of each pair named right {right} of {total} times"
    )
    return f"{summary}\n{table(rows)}"
