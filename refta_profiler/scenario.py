"""A scenario: one YAML file that says what to predict and measure, checked as a whole before anything is built. No torch.

`load` is the one way in. Every mistake is named with its file, its place and what would be right; all of them are told at once.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from refta_profiler import own_code, scenario_checks, scenario_file, scenario_shorthands, scenario_yaml
from refta_profiler.errors import ScenarioError
from refta_profiler.scenario_messages import Fault, faults
from refta_profiler.settings import STRICT, Count, Counts, listed
from refta_profiler.task.settings import Data, Residuals, Train

Precisions = Annotated[list[Literal["fp32", "bf16", "amp-bf16"]], Field(min_length=1), BeforeValidator(listed)]
Switches = Annotated[list[bool], Field(min_length=1), BeforeValidator(listed)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), BeforeValidator(listed)]


def _entries(value: Any) -> Any:
    """A list of one for a single entry: `parallel: {kind: ddp, world: 2}`."""
    return value if value is None or isinstance(value, list) else [value]


class Settings(BaseModel):
    """Settings that take no key they do not know and no value of another type."""

    model_config = STRICT


class Task(Settings):
    """What the model is trained for; what is left out follows from the model."""

    kind: Literal["image-classification", "sequence-classification", "causal-lm"] | None = None
    num_labels: Count | None = None  # classes; 1 is regression; by default 10 for images and 2 for text
    train_head: bool | None = None  # by default true, false for a causal model, whose head is tied to its embeddings


class OnCpu(Settings):
    """What is measured on a machine without a GPU: these batch sizes, and no longer than the budget."""

    batch: Counts | None = None  # by default the scenario's smallest
    warmup: Annotated[int, Field(ge=0)] = 1
    steps: Count = 1
    repeats: Count = 1
    budget_s: Annotated[float, Field(gt=0)] = 300.0
    limit_s: Annotated[float, Field(gt=0)] = 150.0  # for one process, so that one that hangs leaves the others half of the usual budget


class Measure(Settings):
    """Whether and how real steps are run."""

    when: Literal["auto", "always", "never"] = "auto"  # auto and always are the same: what the machine at hand can
    warmup: Annotated[int, Field(ge=0)] = 3
    steps: Count = 10
    repeats: Count = 3  # processes a point, which take turns
    limit_s: Annotated[float, Field(gt=0)] = 900.0  # for one process on a GPU
    instruments: list[Literal["timeline", "saved", "kernels", "module_flops"]] = ["timeline", "saved", "kernels", "module_flops"]
    busy_gpu: Literal["warn", "wait", "refuse"] = "warn"  # what to do where other processes use the GPU
    on_cpu: OnCpu = OnCpu()


def _text(version: Any) -> Any:
    """A version that YAML took for a number."""
    return str(version) if isinstance(version, float) else version


class Loop(Settings):
    """What the training loop does that changes its memory."""

    # how long the forward's outputs (logits, cache) stay alive: false, not into backward; true, through it; next, until the next forward
    # has returned, as a loop's `outputs = model(…)` leaves them
    keep_outputs: Literal[False, True, "next"] = False
    use_cache: bool = False  # whether a decoder builds its key-value cache in training (transformers' Trainer switches it off from 5 on)
    # whether batches are padded (of one example: never), so that a mask is passed: true, of booleans, as transformers 5 has it; additive,
    # one of numbers that all layers share, as transformers 4.49 to 4.55 made for encoders
    attention_mask: Literal[False, True, "additive"] = False
    # as which older version of transformers makes the step (older.py; GPT-2 alone); by default the installed one
    transformers: Annotated[Literal["4.46"] | None, BeforeValidator(_text)] = None


class Scenario(Settings):
    """A checked scenario; after `load` nothing in it is left open (a task's kind, targets, sequence length are filled in)."""

    name: Annotated[str, Field(min_length=1)]
    model: str
    task: Task = Task()
    weights: Literal["random", "pretrained", "quantised-nf4", "quantised-fp4", "quantised-int8"] = "random"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    target: str = "h100"
    targets: Names | None = None  # by default query and value, qkv where they are one
    methods: Annotated[list[Any], Field(min_length=1)]  # mappings, checked by method_entries
    baseline: str = "best"
    batch: Counts
    seq: Counts | None = None  # text by default 128; images have none
    precision: Precisions = ["fp32"]
    checkpointing: Switches = [False]
    parallel: Annotated[list[Any], Field(min_length=1), BeforeValidator(_entries)] | None = None  # see parallel.py; one process
    optimizer: Literal["adamw", "sgd"] = "adamw"
    adapter_dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    allocator: Literal["default", "expandable_segments"] = "default"  # of a GPU, as PYTORCH_ALLOC_CONF sets it
    accumulate: Count = 1
    clip: Annotated[float, Field(gt=0)] | None = None
    loop: Loop = Loop()
    measure: Measure = Measure()
    data: Data | None = None  # with it every method is trained and tested
    train: Train | None = None  # how; by default 3 epochs, with data alone
    residuals: Residuals | None = None  # energy and quantisation error of pretrained weights

    @property
    def text(self) -> str:
        """The frozen YAML: everything resolved, and loadable again as the same scenario."""
        values = {key: value for key, value in self.model_dump().items() if value is not None}
        optional = ("task", "loop", "data", "train", "residuals")
        nested = {key: getattr(self, key).model_dump(exclude_none=True) for key in optional if key in values}
        return scenario_yaml.write({**values, **nested})


def load(path: str | Path, overrides: list[str] | None = None, *, code: own_code.Look = own_code.refuse) -> Scenario:
    """The checked scenario of a YAML file with `--set` overrides; ScenarioError with a line for every mistake in it.

    code: what to do about methods that are the user's own code, own_code.refuse or own_code.look_up.
    """
    return _checked(scenario_file.read(Path(path), list(overrides or [])), Path(path).stem, code)


def from_values(values: dict[str, Any], called: str) -> Scenario:
    """The checked scenario of values that are in no file, e.g. a command's options; messages begin with `called`."""
    return _checked(scenario_file.Document(dict(values), scenario_file.Origin(called, Path.cwd())), called, own_code.refuse)


def _checked(document: scenario_file.Document, name: str, code: own_code.Look) -> Scenario:
    """The scenario of a document, complete; ScenarioError with a line for every mistake."""
    values, wrong = scenario_shorthands.expand({"name": name, **document.values}, document.origin_of(("seq",)).folder)
    draft, found, spoilt = _draft(values)
    found, spoilt = found + wrong, spoilt | {fault.place[0] for fault in wrong}
    folders = {key: document.origin_of((key,)).folder for key in ("model", "data")}
    filled, more = scenario_checks.resolve(draft, spoilt, folders, code)
    if found + more:
        order: list[Any] = list({"name": name, **document.values})
        found = sorted(found + more, key=lambda fault: order.index(fault.place[0]) if fault.place else -1)
        raise ScenarioError("\n".join(dict.fromkeys(_line(document, fault) for fault in found)))
    return draft.model_copy(update=filled)


def _draft(values: dict[str, Any]) -> tuple[Scenario, list[Fault], set[Any]]:
    """The values as a Scenario, what is wrong with single ones, and under which keys; a stand-in is put for each of those."""
    try:
        return Scenario.model_validate(values), [], set()
    except ValidationError as error:
        found = faults(error, values, Scenario)
        wrong = {fault.whole[0] for fault in found}
    right = {key: value for key, value in values.items() if isinstance(key, str) and key not in wrong}
    stand_ins = {"name": "stand-in", "model": "vit-tiny", "methods": [{"name": "head"}], "batch": [1]}
    return Scenario.model_validate({**stand_ins, **right}), found, wrong


def _line(document: scenario_file.Document, fault: Fault) -> str:
    """One mistake as a person reads it: who wrote it, where, what."""
    label = document.origin_of(fault.whole).label
    where = scenario_file.place_name(fault.place)
    return f"{label}: {fault.text}" if not where or label == f"--set {where}" else f"{label}: {where}: {fault.text}"
