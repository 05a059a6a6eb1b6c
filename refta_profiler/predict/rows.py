"""A point's predictions as rows: the closed form and the dry run. A prediction that fails is a row with its reason."""

from __future__ import annotations

import re

from refta.errors import SettingError
from refta.operands import AUTOMATIC
from refta_profiler import devices, own_code, parallel
from refta_profiler.errors import OwnCodeError
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form, slice_ranks
from refta_profiler.predict.dryrun import DryRun, dry_run
from refta_profiler.predict.roofline import Estimate, Share
from refta_profiler.predict.storage import TOGETHER
from refta_profiler.results import LONGEST, Row
from refta_profiler.units import format_bytes, format_percent
from refta_profiler.workload import PHASES

DRYRUN_METRICS = ("peak_allocated_bytes", "static_bytes", "step_flops", "forward_flops", "trainable_parameters")
CLOSED_METRICS = ("trainable_parameters", "adapter_parameters", "forward_flops", "step_flops", "kept_bytes")
NUMBERS = re.compile(r"\bmeta\b|fake ?tensor|tensor subclasses|DataDependent|DynamicOutputShape", re.IGNORECASE)  # in torch's own words
WORTH_SAYING = 0.02  # of the step
ADAPTER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
ASSUMED = "slice ranks are assumed: R spread evenly over min(K, R) slices, since the weights are not at hand"


def row(point: Point, source: str, metric: str, value: int | float | None, *, target: str, status: str = "ok", note: str = "") -> Row:
    """One row of a point."""
    return Row.of(point, target, source, metric, value, status=status, note=note)


def predict(point: Point, target: str | None = None) -> tuple[list[Row], list[Row], DryRun | None]:
    """The closed form's rows, the dry run's rows, and the dry run itself where it went through; for the point's target or another."""
    target = target or point.target
    if point.unsupported:
        return [], _failed(point, target, "unsupported", point.unsupported), None
    try:
        ranks = slice_ranks.known(point, target)
        found = dry_run(point, target, ranks)
    except SettingError as error:
        return [], _failed(point, target, "unsupported", str(error)), None
    except Exception as error:  # whatever a model or a method does under fake tensors is a row with its reason
        return [], _failed(point, target, *_reason(point, error)), None
    note = ASSUMED if ranks is None and point.method == "refta" and point.order in ("slices", *AUTOMATIC) else ""
    return _closed(point, target, found, note), _dry(point, target, found, note), found


def _reason(point: Point, error: Exception) -> tuple[str, str]:
    """Status and note of a prediction that failed; the user's own code may ask for numbers, which is no error of it."""
    if point.method != own_code.NAME:
        return "error", own_code.told(error)
    if isinstance(error, OwnCodeError):
        return "error", str(error)
    call = point.settings["call"]
    if NUMBERS.search(f"{type(error).__name__}: {error}"):
        return "unsupported", f"{call} asks for the numbers of a tensor, which a prediction has none of: {own_code.told(error, call)}"
    return "error", own_code.told(error, call)


def _failed(point: Point, target: str, status: str, note: str) -> list[Row]:
    return [row(point, "dryrun", metric, None, target=target, status=status, note=note) for metric in DRYRUN_METRICS]


def _dry(point: Point, target: str, found: DryRun, note: str) -> list[Row]:
    values = {
        "trainable_parameters": found.trainable_parameters,
        "adapter_parameters": found.adapter_parameters,
        "forward_flops": found.flops_by_phase.get("forward", 0),
        "step_flops": sum(found.flops_by_phase.values()),
        "kept_bytes": found.kept_bytes,
        "peak_allocated_bytes": found.peak_allocated_bytes,
        "static_bytes": found.static_bytes,
        **{f"{phase}_peak_bytes": value for phase, value in found.peak_by_phase.items()},
        **{f"peak_{category}_bytes": value for category, value in found.by_category.items()},
    }
    if found.peak_reserved_bytes is not None:
        values["peak_reserved_bytes"] = found.peak_reserved_bytes
    if point.tokens is not None:
        values["tokens"] = point.tokens
    if point.parallel and found.sent_bytes is not None:
        values["communicated_bytes"] = found.sent_bytes
    notes = "; ".join(one for one in (found.note, note) if one)
    return [row(point, "dryrun", metric, value, target=target, note=notes) for metric, value in values.items()] + _times(
        point, target, found
    )


def _times(point: Point, target: str, found: DryRun) -> list[Row]:
    """The step's time and its parts; where a step would not fit the device, or has no time, a row that says so."""
    device = devices.get(target)
    needed = found.peak_reserved_bytes or found.peak_allocated_bytes
    if device.tensor_bytes is not None and needed > device.tensor_bytes:
        note = f"out of memory predicted: the step needs {format_bytes(needed)}, {target} has {format_bytes(device.memory_bytes or 0)}"
        return [row(point, "dryrun", "step_seconds", None, target=target, status="oom", note=note)]
    if found.time is None:
        return [row(point, "dryrun", "step_seconds", None, target=target, status="unsupported", note=found.no_time)]
    values = {
        "step_seconds": found.time.seconds,
        **{f"{phase}_seconds": found.time.by_phase.get(phase, 0.0) for phase in PHASES},
        **{f"{bound}_bound_seconds": seconds for bound, seconds in found.time.by_bound.items()},
    }
    longest = ", ".join(_share(one, found.time.seconds) for one in found.time.longest[:3])
    notes = {"step_seconds": f"{found.time.note}; {LONGEST}{longest}{_odd(point, found.time)}"}
    return [row(point, "dryrun", name, value, target=target, note=notes.get(name, found.time.note)) for name, value in values.items()]


def _odd(point: Point, time: Estimate) -> str:
    """'; 8% of the step is lost …': what an odd rank costs of a GPU's time in half precision; '' where that is little."""
    if point.rank is None or time.odd_seconds <= WORTH_SAYING * time.seconds:
        return ""
    return (
        f"; {format_percent(time.odd_seconds / time.seconds)} of the step is lost where half precision reads rows of {point.rank} numbers, "
        f"the rank, one at a time since they are odd: a rank of {point.rank + -point.rank % TOGETHER} would spare that"
    )


def _share(one: Share, whole: float) -> str:
    """'mm in backward 34% (bound by compute)'."""
    return f"{one.name.removeprefix('aten.')} in {one.phase} {format_percent(one.seconds / whole)} (bound by {one.bound})"


def _closed(point: Point, target: str, found: DryRun, note: str) -> list[Row]:
    if point.method == own_code.NAME:
        return _no_closed_form(point, target, f"{point.settings['call']} states no network")
    if not found.shapes:
        return _no_closed_form(point, target, f"'{point.method}' has no adapter on linears")
    if found.repeated:
        return _no_closed_form(point, target, found.repeated)
    costs, kept_inputs, assumed = closed_form.point_costs(point, found.shapes)
    if costs is None:
        reason = f"order {point.order} changes with the tokens" if point.order in AUTOMATIC else f"'{point.method}' states no network"
        return _no_closed_form(point, target, reason)
    if point.tokens is None:
        return _no_closed_form(point, target, "the tokens of an example are not known for this model")
    tokens = point.tokens
    notes = "; ".join(one for one in (assumed, note) if one)
    values = {
        "adapter_parameters": closed_form.trainable_parameters(costs),
        "trainable_parameters": closed_form.trainable_parameters(costs),
        "forward_flops": sum(one.cost.forward_flops.at(tokens) for one in costs),
        "step_flops": sum(one.cost.step_flops.at(tokens) for one in costs),
        "kept_bytes": sum(one.cost.kept_bytes.at(tokens) for one in costs) + kept_inputs.at(tokens),
    }
    how = parallel.read(point.parallel)
    if how is not None and how.kind == "ddp":  # every backward reduces every gradient, a shared factor's once
        size = closed_form.trainable_parameters(costs) * ADAPTER_BYTES[point.adapter_dtype]
        values["communicated_bytes"] = round(2 * point.accumulate * size * (how.world - 1) / how.world)
    return [row(point, "contraction", metric, value, target=target, note=notes) for metric, value in values.items()]


def _no_closed_form(point: Point, target: str, reason: str) -> list[Row]:
    return [
        row(point, "contraction", metric, None, target=target, status="unsupported", note=f"no closed form: {reason}")
        for metric in CLOSED_METRICS
    ]
