"""A scenario multiplied out into points: one training step each, with everything that determines its result. No torch."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from refta_profiler import method_entries, models, own_code, parallel
from refta_profiler.errors import ScenarioError
from refta_profiler.method_entries import Variant
from refta_profiler.scenario import Scenario
from refta_profiler.scenario_shorthands import QUANTISED_PREFIX

CHANGING = ("refta", "pissa")  # methods that leave a residual in place of the base weights
NOT_IN_THE_HASH = ("label", "measure_on_cpu")  # how a point is called, and where it is measured


@dataclass(frozen=True)
class Point:
    """One cell of a scenario: a model, a method in one order, and the step's sizes."""

    id: str  # readable, and a hash of everything that determines the result
    model: str
    label: str
    method: str
    settings: dict[str, Any]  # the method's, without name, label and order
    order: str | None  # None where the method has none
    rank: int | None  # None where the method has none
    batch: int  # examples of one forward (accumulate of them make a step)
    seq: int | None  # tokens of an example; images: the model's own count, None where that is not known
    precision: str
    checkpointing: bool
    target: str
    targets: list[str]  # the roles, or ends of module names, that are adapted
    task: dict[str, Any]  # kind, num_labels (None for causal-lm), train_head
    weights: str
    seed: int
    optimizer: str
    adapter_dtype: str
    attention: str
    allocator: str  # of a GPU: default, or expandable_segments
    accumulate: int
    clip: float | None
    loop: dict[str, bool | str]  # keep_outputs (true, false or next), use_cache, attention_mask (true, false or additive), transformers
    measure_on_cpu: bool  # whether the scenario asks for it where there is no GPU
    parallel: str = ""  # over which ranks, e.g. ddp:2 (parallel.py); '' for one process. The batch is a rank's

    @property
    def tokens(self) -> int | None:
        """Tokens of one forward, batch × sequence; None where the sequence is not known."""
        return None if self.seq is None else self.batch * self.seq

    @property
    def variant(self) -> tuple[Any, ...]:
        """What points share that differ in their batch alone."""
        return self.label, self.seq, self.precision, self.checkpointing, self.parallel

    @property
    def unsupported(self) -> str:
        """Why the point can be neither predicted nor measured; '' where nothing is known against it."""
        if not self.weights.startswith(QUANTISED_PREFIX):
            return ""
        kind = self.weights.removeprefix(QUANTISED_PREFIX)
        lacking = "the packed weights, dequantised temporaries and kernels of bitsandbytes are not modelled"
        reason = f"a base quantised to {kind} is not supported: {lacking}"
        changes = f"; and {self.method} changes the base weights, so its residual would have to be quantised anew"
        return reason + (changes if self.method in CHANGING else "")

    def to_json(self) -> str:
        """The point as JSON, which `from_json` gives back equal."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Point":
        """The point that `to_json` wrote; ScenarioError where the text is not one."""
        try:
            values = json.loads(text)
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values or field.default is MISSING})
        except (ValueError, KeyError, TypeError) as error:
            raise ScenarioError(f"not a point's JSON: {type(error).__name__}: {error}") from None


def points(scenario: Scenario) -> list[Point]:
    """Every point of a scenario, by method, precision, checkpointing, parallelism, sequence and batch (the last varies fastest)."""
    variants, _ = method_entries.expand(scenario.methods)
    architecture = models.fingerprint(scenario.model)
    lengths = scenario.seq or [models.tokens_per_sequence(scenario.model, None)]
    axes = {"precision": scenario.precision, "checkpointing": scenario.checkpointing, "parallel": ranks(scenario)}
    axes |= {"seq": lengths, "batch": scenario.batch}
    cells = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [_point(scenario, variant, cell, architecture) for variant in map(_with_sources, variants) for cell in cells]


def ranks(scenario: Scenario) -> list[str]:
    """The scenario's ways of spreading a step over ranks, as points have them; [''] where it says none."""
    return [parallel.checked(one) for one in scenario.parallel or [None]]


def variants(points: Sequence[Point]) -> list[Point]:
    """The first of all points that differ in their batch alone."""
    found: dict[tuple, Point] = {}
    for point in points:
        found.setdefault(point.variant, point)
    return list(found.values())


def _with_sources(variant: Variant) -> Variant:
    """The variant, code of the user's own with a hash of its sources in the settings: code that was changed makes other points."""
    if variant.method != own_code.NAME:
        return variant
    return replace(variant, settings=variant.settings | {"sources": own_code.fingerprint(variant.settings)})


def _point(scenario: Scenario, variant: Variant, cell: dict[str, Any], architecture: str) -> Point:
    """The point of a variant in one cell (precision, checkpointing, parallel, seq, batch); its id is made from all of it but its label."""
    same = ("model", "target", "weights", "seed", "optimizer", "adapter_dtype", "attention", "allocator", "accumulate", "clip")
    values: dict[str, Any] = {
        "label": variant.label,
        "method": variant.method,
        "settings": json.loads(json.dumps(variant.settings)),
        "order": variant.order,
        "rank": variant.rank,
        **cell,
        "targets": list(scenario.targets or []),
        "task": scenario.task.model_dump(),
        "loop": scenario.loop.model_dump(exclude_none=True),
        "measure_on_cpu": cell["batch"] in (scenario.measure.on_cpu.batch or []),
        **{key: getattr(scenario, key) for key in same},
    }
    return Point(id=_id(values, architecture, kind=scenario.task.kind), **values)


def _id(values: dict[str, Any], architecture: str, *, kind: str | None) -> str:
    """A point's id: words a person can read in a file name, then eight hex digits of a hash.

    E.g. "vit-large-refta-shared-b8-fp32-3f0c1a2b"; text has its tokens ("-t128"), checkpointing is "-ckpt", ranks are "-ddp2".
    """
    content = {key: value for key, value in values.items() if key not in NOT_IN_THE_HASH}
    if not content["parallel"]:
        del content["parallel"]  # one process: the ids of points are what they were before there was another
    return readable_id({**values, "seq": None if kind == models.IMAGES else values["seq"]}, [content, architecture])


def aimed_at(point: Point, target: str, architecture: str) -> Point:
    """The point of the same scenario with another target: the same step, which is measured alike, under another id.

    architecture: the fingerprint of the point's model.
    """
    values = {name: value for name, value in asdict(point).items() if name != "id"} | {"target": target}
    return replace(point, target=target, id=_id(values, architecture, kind=point.task["kind"]))


def readable_id(values: dict[str, Any], content: Any) -> str:
    """The id of what has these values (model, label, batch, seq, precision, checkpointing) and is determined by the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    model = values["model"].rstrip("/").rsplit("/", 1)[-1]
    tokens = "" if values["seq"] is None else f"-t{values['seq']}"
    checkpointing = "-ckpt" if values["checkpointing"] else ""
    ranked = parallel.suffix(values.get("parallel", ""))
    words = f"{model}-{values['label']}-b{values['batch']}{tokens}-{values['precision']}{checkpointing}{ranked}"
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', words).strip('-.')[:100]}-{digest}"
