"""The one long table that every part of the profiler writes to or reads from: a `Row` is one metric of one point from one source."""

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from refta_profiler.errors import ProfilerError

if TYPE_CHECKING:
    import pandas

SOURCES = ("contraction", "dryrun", "measured")
STATUSES = ("ok", "oom", "error", "unsupported", "skipped")
WHOLE_UNITS = ("count", "FLOP", "B")
LONGEST = "longest: "  # in a predicted time's note, before its longest operations and what else is to be known of the point's step


def longest_and_rest(note: str) -> tuple[str, str]:
    """Of a predicted time's note, the longest operations and what follows them: ('mm in forward 40% (…), …', '7% of the step …')."""
    longest, _, rest = note.partition(LONGEST)[2].partition("; ")
    return longest, rest


@dataclass(frozen=True)
class Metric:
    """What a metric counts: its unit, what it means, and the sources that can give it."""

    unit: str
    description: str
    sources: tuple[str, ...]


PREDICTED_OR_MEASURED = ("dryrun", "measured")
MEASURED = ("measured",)
PREDICTED = ("dryrun",)
OWN = "from `contraction` the adapters' own, beyond the frozen base; from the other sources the whole step's"

SENT = (
    "bytes that a rank sends in one step, by ring algorithms: 2(N-1)/N of what is all-reduced, (N-1)/N of what is gathered, scattered or "
    "broadcast; from `contraction` the adapters' own gradients alone"
)

# of whole trainings, not of a step
TRAINING_METRICS: dict[str, Metric] = {
    "test_accuracy": Metric("1", "share of test items that are right, mean over seeds", MEASURED),
    "test_accuracy_low": Metric("1", "lower end of its 95% interval (over test items and seeds)", MEASURED),
    "test_accuracy_high": Metric("1", "upper end of its 95% interval (over test items and seeds)", MEASURED),
    "test_correlation": Metric("1", "Pearson's correlation of predicted and true numbers on the test items, mean over seeds", MEASURED),
    "test_correlation_low": Metric("1", "lower end of its 95% interval (over test items and seeds)", MEASURED),
    "test_correlation_high": Metric("1", "upper end of its 95% interval (over test items and seeds)", MEASURED),
    "validation_accuracy": Metric("1", "share of right items of the validation split, by which the learning rate was chosen", MEASURED),
    "validation_correlation": Metric("1", "correlation on the validation split, by which the learning rate was chosen", MEASURED),
    "score_difference": Metric("1", "test score less that of the method which the note names", MEASURED),
    "score_difference_low": Metric("1", "lower end of its 95% interval (over test items and seeds, paired)", MEASURED),
    "score_difference_high": Metric("1", "upper end of its 95% interval (over test items and seeds, paired)", MEASURED),
    "learning_rate": Metric("1", "learning rate that the validation split chose", MEASURED),
    "training_seeds": Metric("count", "trainings that a test score is the mean of", MEASURED),
    "test_items": Metric("count", "items of the test split", MEASURED),
    "training_steps": Metric("count", "steps of a training", MEASURED),
    "training_loss": Metric("1", "training loss in the end", MEASURED),
    "training_seconds": Metric("s", "time of all steps of a training", MEASURED),
    "training_step_seconds": Metric("s", "time of one step in training, whose batches differ in length", MEASURED),
    "training_peak_bytes": Metric("B", "most bytes live at once in a whole training (CUDA)", MEASURED),
    "steps_to_loss": Metric("count", "steps until the training loss is down to the scenario's `to_loss`", MEASURED),
    "seconds_to_loss": Metric("s", "time of the steps until the training loss is down to the scenario's `to_loss`", MEASURED),
}

METRICS: dict[str, Metric] = {
    "trainable_parameters": Metric("count", "numbers that the optimizer updates, a trained head included", SOURCES),
    "adapter_parameters": Metric("count", "numbers that the optimizer updates in the adapter alone, without the head", SOURCES),
    "forward_flops": Metric("FLOP", f"floating-point operations of the forward pass (a multiply-add is 2): {OWN}", SOURCES),
    "step_flops": Metric("FLOP", f"floating-point operations of forward and backward: {OWN}", SOURCES),
    "kept_bytes": Metric("B", f"bytes that autograd keeps from forward for backward: {OWN}", SOURCES),
    "peak_allocated_bytes": Metric(
        "B", "most bytes live at once during one training step, weights and optimizer state included", PREDICTED_OR_MEASURED
    ),
    "peak_reserved_bytes": Metric("B", "most bytes that the caching allocator holds during one training step", PREDICTED_OR_MEASURED),
    "forward_peak_bytes": Metric("B", "most bytes live at once in the forward pass, weights included", PREDICTED_OR_MEASURED),
    "backward_peak_bytes": Metric("B", "most bytes live at once in the backward pass, weights included", PREDICTED_OR_MEASURED),
    "optimizer_peak_bytes": Metric(
        "B", "most bytes live at once in clipping and the optimizer's step, weights included", PREDICTED_OR_MEASURED
    ),
    "peak_active_bytes": Metric("B", "most bytes at once in blocks in use or not yet given back by all streams (CUDA)", MEASURED),
    "allocator_retries": Metric("count", "times in one step that the caching allocator emptied its cache to serve a request", MEASURED),
    "allocator_refusals": Metric("count", "times in one step that the caching allocator ran out of memory for good", MEASURED),
    "static_bytes": Metric(
        "B", "bytes live when a step starts: weights, buffers, optimizer state, batch, kept outputs", PREDICTED_OR_MEASURED
    ),
    "step_seconds": Metric(
        "s",
        "time of one training step: a process's median, the (geometric) mean over processes",
        PREDICTED_OR_MEASURED,
    ),
    "step_seconds_p10": Metric("s", "10th percentile of the time of one training step", MEASURED),
    "step_seconds_p90": Metric("s", "90th percentile of the time of one training step", MEASURED),
    "step_seconds_low": Metric(
        "s", "lower end of the 95% interval of the step time, over processes (Student's t) or within one (note)", MEASURED
    ),
    "step_seconds_high": Metric(
        "s", "upper end of the 95% interval of the step time, over processes (Student's t) or within one (note)", MEASURED
    ),
    "forward_seconds": Metric("s", "time of the forward pass and the loss", PREDICTED_OR_MEASURED),
    "backward_seconds": Metric("s", "time of the backward pass", PREDICTED_OR_MEASURED),
    "optimizer_seconds": Metric("s", "time of the optimizer's step", PREDICTED_OR_MEASURED),
    "compute_bound_seconds": Metric("s", "of the step, in operations that the device's FLOP/s bound (roofline)", PREDICTED),
    "bandwidth_bound_seconds": Metric("s", "of the step, in operations that the memory's bandwidth bounds (roofline)", PREDICTED),
    "launch_bound_seconds": Metric("s", "of the step, in launches and waiting for the host (roofline)", PREDICTED),
    "setup_seconds": Metric("s", "time to attach the adapter, paid once (for ReFTA the slice-wise SVDs)", MEASURED),
    "setup_peak_bytes": Metric("B", "most bytes live at once while the adapter is attached, the model included", MEASURED),
    "merge_seconds": Metric("s", "time to fold the adapter into the frozen weights, once", MEASURED),
    "adapter_file_bytes": Metric("B", "size of the file that the trained adapter is kept in, a trained head included", MEASURED),
    "tokens": Metric("count", "tokens of one step: batch times sequence", SOURCES),
    "communicated_bytes": Metric("B", SENT, SOURCES),
    "noise_fraction": Metric(
        "1", "how much two measurements of the same point differ in step time by chance: less than this cannot be told apart", MEASURED
    ),
    "marks_fraction": Metric("1", "how much longer the marks between its phases make a timed step, from steps side by side", MEASURED),
    "marks_fraction_low": Metric("1", "lower end of its 95% interval (Student's t over pairs of steps)", MEASURED),
    "marks_fraction_high": Metric("1", "upper end of its 95% interval (Student's t over pairs of steps)", MEASURED),
    "instruments_answered": Metric(
        "count", "instruments that looked closer at the step; only where one failed, without a value and with the reason", MEASURED
    ),
    "peak_weights_bytes": Metric("B", "at the peak: frozen weights and buffers of the model", PREDICTED_OR_MEASURED),
    "peak_adapter_bytes": Metric("B", "at the peak: the adapter's parameters and a trained head's", PREDICTED_OR_MEASURED),
    "peak_gradients_bytes": Metric("B", "at the peak: gradients of trained parameters", PREDICTED_OR_MEASURED),
    "peak_optimizer_bytes": Metric("B", "at the peak: optimizer state", PREDICTED_OR_MEASURED),
    "peak_activations_bytes": Metric("B", "at the peak: what is kept from forward for backward", PREDICTED_OR_MEASURED),
    "peak_reconstructed_bytes": Metric("B", "at the peak: weights rebuilt from factors, and their gradients", PREDICTED_OR_MEASURED),
    "peak_temporary_bytes": Metric("B", "at the peak: intermediate results that live within one operation or layer", PREDICTED_OR_MEASURED),
    "peak_workspace_bytes": Metric(
        "B",
        "at the peak: libraries' workspaces, and what blocks of before the step hold beyond their tensors",
        PREDICTED_OR_MEASURED,
    ),
    "peak_batch_bytes": Metric("B", "at the peak: the batch itself", PREDICTED_OR_MEASURED),
    **TRAINING_METRICS,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one point from one source. `value` is None exactly where `status` is not 'ok', and `note` then says why."""

    point: str
    model: str
    label: str
    method: str
    order: str | None
    rank: int | None
    batch: int
    seq: int | None
    precision: str
    checkpointing: bool
    target: str
    source: str
    metric: str
    unit: str
    value: int | float | None
    status: str = "ok"
    note: str = ""
    parallel: str = ""  # over which ranks, e.g. ddp:2; '' for one process. Every value is a rank's

    def __post_init__(self) -> None:
        place = f"row {self.point}, {self.metric}"
        if self.source not in SOURCES:
            raise ValueError(f"{place}: source {self.source!r} is none of {', '.join(SOURCES)}")
        if self.status not in STATUSES:
            raise ValueError(f"{place}: status {self.status!r} is none of {', '.join(STATUSES)}")
        if (self.value is None) == (self.status == "ok"):
            raise ValueError(
                f"{place}: value {self.value} does not go with status {self.status!r}; a value is there exactly where the status is 'ok'"
            )
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"{place}: value {self.value} is not a number; an unknown value is None, with a status and a note that says why"
            )

    @classmethod
    def of(cls, point: Any, target: str, source: str, metric: str, value: float | None, *, status: str = "ok", note: str = "") -> "Row":
        """The row of one metric of a point (a plan.Point) from one source; its unit is the metric's."""
        same = ("model", "label", "method", "order", "rank", "batch", "seq", "precision", "checkpointing")
        values: dict[str, Any] = {name: getattr(point, name) for name in same} | {"parallel": getattr(point, "parallel", "")}
        unit = METRICS[metric].unit
        return cls(point=point.id, target=target, source=source, metric=metric, unit=unit, value=value, status=status, note=note, **values)

    @property
    def cell(self) -> tuple[Any, ...]:
        """What it is a number of, whatever run it is from."""
        return (
            self.model,
            self.label,
            self.batch,
            self.seq,
            self.precision,
            self.checkpointing,
            self.parallel,
            self.target,
            self.source,
            self.metric,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON takes them."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """The row of such a mapping; also of one read from CSV, where every value is a string and an empty one stands for None.

        A ValueError names a value that is none of its field.
        """
        missing = [name for name in FIELDS if name not in values and name not in ("status", "note", "parallel")]
        if missing:
            raise ProfilerError(f"a row has no {', '.join(missing)}; its fields are {', '.join(FIELDS)}")
        return cls(**{name: read(name, values[name]) for name in FIELDS if name in values})


FIELDS = tuple(field.name for field in fields(Row))


def read(name: str, value: Any) -> Any:
    """The value of the field of that name; a ValueError that says which it is where it cannot be one."""
    try:
        return READERS.get(name, read_name)(value)
    except (TypeError, ValueError) as fault:
        raise ValueError(f"{name} {value!r} cannot be read") from fault


def read_name(value: Any) -> str:
    """The text, one object for all rows that have it: a large run's rows are mostly the same few hundred names."""
    return sys.intern(str(value))


def read_text(value: Any) -> str:
    """The text, empty for None."""
    return "" if value is None else read_name(value)


def read_optional_text(value: Any) -> str | None:
    """The text, None where it is empty."""
    return None if value in (None, "") else read_name(value)


def read_optional_integer(value: Any) -> int | None:
    """The whole number, None where it is empty."""
    return None if value in (None, "") else int(value)


def read_number(value: Any) -> int | float | None:
    """An int where it is written without point or exponent, otherwise a float; None where it is empty."""
    if value in (None, "") or isinstance(value, int | float):
        return None if value == "" else value
    return int(value) if value.lstrip("+-").isdigit() else float(value)


def read_flag(value: Any) -> bool:
    """A bool, also from 'true' and 'False'."""
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1")


READERS = {
    "order": read_optional_text,
    "rank": read_optional_integer,
    "batch": int,
    "seq": read_optional_integer,
    "checkpointing": read_flag,
    "value": read_number,
    "note": read_text,
    "parallel": read_text,
}


def to_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV with a header; None is an empty cell, a flag is true or false."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(FIELDS)
    for row in rows:
        values = row.to_dict() | {"checkpointing": str(row.checkpointing).lower()}
        table.writerow(["" if value is None else value for value in values.values()])
    return text.getvalue()


def from_csv(text: str) -> list[Row]:
    """The rows of such a CSV; a ValueError names the line of one that is none."""
    table = csv.DictReader(io.StringIO(text))
    rows = []
    try:
        for values in table:
            rows.append(Row.from_dict(values))
    except (ValueError, ProfilerError, csv.Error) as fault:
        raise ValueError(f"line {table.line_num}: {fault}") from fault
    return rows


def to_json(rows: Iterable[Row]) -> str:
    """The rows as one JSON array."""
    return json.dumps([row.to_dict() for row in rows], indent=1, allow_nan=False)


def to_pandas(rows: Iterable[Row]) -> "pandas.DataFrame":
    """The rows as a data frame, a column a field; ranks and sequences are whole numbers where they are known (Int64), else missing."""
    import pandas

    frame = pandas.DataFrame([row.to_dict() for row in rows], columns=list(FIELDS))
    return frame.astype({"rank": "Int64", "batch": "Int64", "seq": "Int64", "checkpointing": "bool", "value": "float64"})
