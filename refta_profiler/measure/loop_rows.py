"""What was found in a training loop of one's own, as rows, as a summary, and as a run folder that `report` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refta_profiler.devices import device_key
from refta_profiler.measure import gpu, loop_shapes, subject, timing
from refta_profiler.measure.load import Load, complaint
from refta_profiler.measure.loop_shapes import Shape
from refta_profiler.measure.rows import average, counted, interval_notes, throttled_words
from refta_profiler.measure.subject import Subject
from refta_profiler.measure.worker import describe_failure
from refta_profiler.results import Row
from refta_profiler.units import format_bytes, format_count, format_flops, format_seconds
from refta_profiler.workload import PHASES

if TYPE_CHECKING:
    from refta_profiler.measure.loop import profile

METRICS = {  # what each kind of step gives, in the rows' order
    "flops": ("forward_flops", "step_flops"),
    "memory": ("static_bytes", "peak_allocated_bytes"),
    "time": ("step_seconds", "step_seconds_p10", "step_seconds_p90", *(f"{phase}_seconds" for phase in PHASES)),
}
WORDS = {"time": "the time is", "memory": "memory is", "flops": "FLOPs are"}
NO_PHASES = (
    "forward, backward and optimizer could not be told apart: no tensor of the model's output began a backward, or the optimizer ran it"
)
NO_NOISE = "a loop is timed in one process, which gives no noise floor: differences of times are not judged"
LOADING = "from the forward to the optimizer's step; loading data and evaluating are not in it"
OF_THE_OPTIMIZER = ("step_seconds", "optimizer_seconds", "peak_allocated_bytes", "step_flops")  # what another one's step would be part of
OTHERS = 0.01  # of the live bytes: from here on it is said how much is neither the model's nor the optimizer's nor the batch
FORMATS = {"B": format_bytes, "FLOP": format_flops, "s": format_seconds, "count": format_count}


def make(one: profile, error: BaseException | None) -> list[Row]:
    """The rows of a loop that ended, perhaps by an error; none where it ended before its model ran once."""
    if not one.found.shapes:
        return []
    what, key = describe(one), device_key(str(one.instruments.device))
    values = numbers(one, what)
    found = [
        Row.of(what, key, "measured", metric, values[metric], note=note_of(one, metric, what))
        if metric in values
        else Row.of(what, key, "measured", metric, None, **missing(one, metric, error))
        for metric in wanted(values)
    ]
    return [*found, Row.of(what, key, "measured", "noise_fraction", None, status="skipped", note=NO_NOISE)]


def nothing(one: profile) -> str:
    """Why a loop that has ended has no rows."""
    if not one.unled:
        return f"{one.label}: nothing was measured: the loop ended before its model ran with gradients"
    steps = counted(one.unled, "optimizer step")
    where = "a model is seen where it is called, `model(...)`, and not where its `forward` or another method of its is"
    why = f"{steps}, none after a forward of this model with gradients: is it the one that is trained?"
    return f"{one.label}: nothing was measured: {why} ({where})"


def wanted(values: dict[str, Any]) -> list[str]:
    """The metrics of the rows: what there is, and what there should be."""
    named = ["trainable_parameters", *(metric for group in METRICS.values() for metric in group)]
    return list(dict.fromkeys([*named, *values]))


def describe(one: profile) -> Subject:
    """What the loop trains; batch and sequence of the largest forward of all measured steps.

    Where memory ran out before any was measured they are those of the step that it ran out in.
    Of accumulated steps the model's name says how many forwards make one: they are another setting than steps of one.
    """
    steps = steps_of(one, None)
    named = [one.broken] if one.broken and not measured_steps(one) else steps
    forwards, (batch, seq) = loop_shapes.usual_forwards(steps), loop_shapes.largest(named)
    method, order, rank = subject.method_of(one.model)
    return Subject(
        model=subject.model_name(one.model) + (f", {forwards} forwards a step" if forwards > 1 else ""),
        label=one.label,
        method=one.method or method,
        order=one.order or order,
        rank=one.rank if one.rank is not None else rank,
        batch=batch,
        seq=seq,
        precision=subject.precision_of(one.model, one.autocast),
        checkpointing=subject.checkpointing_of(one.model),
    )


def steps_of(one: profile, kind: str | None) -> list[list[Shape]]:
    """The forwards of every step of that kind; of all measured steps for None, and where none was measured of what there was."""
    found = one.found.steps_of
    if kind is not None:
        return found.get(kind, [])
    return measured_steps(one) or found.get(None) or [one.found.shapes]


def measured_steps(one: profile) -> list[list[Shape]]:
    """The forwards of every step that something was measured in."""
    return [step for kind in METRICS for step in one.found.steps_of.get(kind, [])]


def kind_of(metric: str) -> str | None:
    """What a step is for that gives the metric: 'time', 'memory' or 'flops'; None for what no step gives."""
    endings = {"_flops": "flops", "_bytes": "memory"}
    return "time" if "_seconds" in metric else next((kind for ending, kind in endings.items() if metric.endswith(ending)), None)


def numbers(one: profile, what: Subject) -> dict[str, Any]:
    """Every metric that is known."""
    trained = sum(parameter.numel() for parameter in one.model.parameters() if parameter.requires_grad)
    tokens = {} if what.seq is None else {"tokens": what.batch * what.seq}
    return {"trainable_parameters": trained, **one.found.values, **times(one.found.samples), **tokens}


def times(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians and percentiles of the step, and of its phases where all steps tell them apart; nothing of no samples."""
    if not samples:
        return {}
    if all("step" not in sample for sample in samples):
        return timing.summary([samples])
    whole = [{"forward": sum(sample.values()), "backward": 0.0, "optimizer": 0.0} for sample in samples]
    return {metric: value for metric, value in timing.summary([whole]).items() if metric.startswith("step")}


def note_of(one: profile, metric: str, what: Subject) -> str:
    """What is to be said of a number."""
    found = one.found
    parts = [words for words in [interval_notes(1).get(metric)] if words]
    if metric == "step_seconds":
        parts.append(f"median of {counted(len(found.samples), 'step')}, {LOADING}")
        parts += [words for words in [complaint(average([Load(**one) for one in found.loads]))] if words]
        parts += [words for words in [throttled_words(gpu.over(one.gpu[0], one.gpu[-1]) if one.gpu else None)] if words]
    parts += [words for words in [left_out_words(one)] if words and metric in OF_THE_OPTIMIZER]
    if metric in ("static_bytes", "peak_allocated_bytes") and found.other_bytes > OTHERS * found.values["static_bytes"]:
        parts.append(f"{format_bytes(found.other_bytes)} of it are other tensors of the process that were alive when the step began")
    parts += feeding_words(one, metric, what)
    rank, world = one.ranks
    if world > 1 and metric != "trainable_parameters":
        parts.append(f"it is rank {rank}'s alone, of {world}")
    return "; ".join(parts)


def left_out_words(one: profile) -> str:
    """That the model has more to train than the optimizer has; '' where it has not."""
    ours = {id(parameter) for group in one.optimizer.param_groups for parameter in group["params"]}
    count = sum(parameter.numel() for parameter in one.model.parameters() if parameter.requires_grad and id(parameter) not in ours)
    if not count:
        return ""
    what = f"{format_count(count)} numbers of the model that require gradients are not this optimizer's"
    return f"{what}; where another optimizer's step follows this one's, it is left out: give the one that steps last"


def feeding_words(one: profile, metric: str, what: Subject) -> list[str]:
    """How many forwards the metric's steps had, and of which sizes, where that is not one of the row's."""
    kind = kind_of(metric)
    if kind is None and metric != "tokens":
        return []
    steps = steps_of(one, kind)
    sizes = loop_shapes.sizes_words(steps, (what.batch, what.seq))
    return [words for words in (loop_shapes.forwards_words(steps), sizes) if words]


def missing(one: profile, metric: str, error: BaseException | None) -> dict[str, str]:
    """Status and note of a number that there is not."""
    kind = kind_of(metric) or ""
    if kind in one.found.faults:
        return {"status": "unsupported", "note": one.found.faults[kind]}
    if (kind == "time" and one.found.samples) or (kind == "flops" and "step_flops" in one.found.values):
        return {"status": "unsupported", "note": NO_PHASES}
    if error is not None:
        failure = describe_failure(error)
        place = f", which had a forward of {loop_shapes.words(loop_shapes.largest([one.broken]))}" if one.broken else ""
        return {"status": failure["status"], "note": f"the loop ended in step {one.done + 1}{place}: {failure['note']}"}
    needed, needs = one.warmup + one.steps + 2, one.first_step_of(kind)
    short = f"the loop ended after {one.done} optimizer step{'s' * (one.done != 1)}, and {WORDS[kind]} measured in step {needs}"
    if one.done == 0:
        short = "no optimizer.step() followed a forward of the model: is it this model and this optimizer that the loop trains?"
    return {"status": "skipped", "note": f"{short}; run at least {needed} steps, or ask for fewer (warmup=1, steps=1 takes 4)"}


def summary(rows: Sequence[Row]) -> str:
    """A few lines: what was measured, each number, and why one is not there."""
    first = rows[0]
    place = ", ".join(
        [
            first.model,
            first.method + (f"/{first.order}" if first.order else ""),
            f"batch {first.batch}",
            *([f"sequence {first.seq}"] if first.seq else []),
            first.precision,
            f"{'with' if first.checkpointing else 'without'} checkpointing",
        ]
    )
    lines = [f"{first.label}: {place}, measured on {first.target}"]
    width = max(len(row.metric) for row in rows)
    lines += [f"  {row.metric.ljust(width)}  {row.status if row.value is None else FORMATS[row.unit](row.value)}" for row in rows]
    notes: dict[str, list[str]] = {}
    for row in rows:
        notes.setdefault(row.note, []).append(row.metric)
    return "\n".join([*lines, *(f"  ({', '.join(metrics)}: {note})" for note, metrics in notes.items() if note)])
