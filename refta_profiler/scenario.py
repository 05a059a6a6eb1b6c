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


STEP = ("task", "optimizer", "accumulate", "clip", "attention", "allocator", "adapter_dtype", "loop")  # what `check --step` takes


class Task(Settings):
    """What the model is trained for; what is left out follows from the model."""

    kind: Literal["image-classification", "sequence-classification", "causal-lm"] | None = None
    """By default what the model's config says it is for."""
    num_labels: Count | None = None
    """Classes; 1 is regression. By default 10 for images and 2 for text."""
    train_head: bool | None = None
    """By default true, and false for a causal model, whose head is tied to its embeddings."""


class OnCpu(Settings):
    """What is measured on a machine without a GPU."""

    batch: Counts | None = None
    """These batch sizes; by default the scenario's smallest."""
    warmup: Annotated[int, Field(ge=0)] = 1
    """Steps that are run and dropped before those that are timed."""
    steps: Count = 1
    """Timed steps of a process."""
    repeats: Count = 1
    """Processes of a point, which take turns with the other points'; from two on, times can be told apart."""
    budget_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which nothing more is measured; the points that are left are skipped."""
    limit_s: Annotated[float, Field(gt=0)] = 150.0
    """Seconds that one process may take, so that one that hangs leaves the others half of the usual budget."""


class Measure(Settings):
    """Whether and how real steps are run."""

    when: Literal["auto", "always", "never"] = "auto"
    """`auto` measures what the machine at hand can, and so does `always`; `never` only predicts."""
    warmup: Annotated[int, Field(ge=0)] = 3
    """Steps that are run and dropped before those that are timed, on a GPU."""
    steps: Count = 10
    """Timed steps of a process, on a GPU."""
    repeats: Count = 3
    """Processes of a point, on a GPU, which take turns with the other points'."""
    limit_s: Annotated[float, Field(gt=0)] = 900.0
    """Seconds that one process may take, on a GPU."""
    instruments: list[Literal["timeline", "saved", "kernels", "module_flops"]] = ["timeline", "saved", "kernels", "module_flops"]
    """What else is looked at, each on a step of its own: memory over time by category; what each module keeps for backward; time by
    operator and module, with the chrome trace; FLOPs by module beside fvcore's. [] leaves all out."""
    busy_gpu: Literal["warn", "wait", "refuse"] = "warn"
    """What to do where other processes use the GPU."""
    on_cpu: OnCpu = OnCpu()


def _text(version: Any) -> Any:
    """A version that YAML took for a number."""
    return str(version) if isinstance(version, float) else version


class Loop(Settings):
    """What the training loop does that changes its memory."""

    keep_outputs: Literal[False, True, "next"] = False
    """How long the forward's outputs (logits, cache) stay alive: false, not into backward; true, through it; next, until the next forward
    has returned, as a loop's `outputs = model(…)` leaves them."""
    use_cache: bool = False
    """Whether a decoder builds its key-value cache in training (transformers' Trainer switches it off from 5 on)."""
    attention_mask: Literal[False, True, "additive"] = False
    """Whether batches are padded, so that a mask is passed (of one example: never): true, of booleans, as transformers 5 has it; additive,
    one of numbers that all layers share, as transformers 4.49 to 4.55 made for encoders."""
    transformers: Annotated[Literal["4.46"] | None, BeforeValidator(_text)] = None
    """As which older version of transformers makes the step (GPT-2 alone); by default the installed one."""


class Scenario(Settings):
    """A checked scenario; after `load` nothing in it is left open (a task's kind, targets, sequence length are filled in)."""

    name: Annotated[str, Field(min_length=1)]
    """What its runs are called; by default the file's name."""
    model: str
    """A preset (`list models`), a transformers hub name, or a folder with a config.json."""
    task: Task = Task()
    weights: Literal["random", "pretrained", "quantised-nf4", "quantised-fp4", "quantised-int8"] = "random"
    """Random ones need no download: memory does not depend on their values. Quantised weights are refused as unsupported, a row a point."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of random weights, batches and adapters."""
    target: str = "h100"
    """The device that is predicted for (`list devices`)."""
    targets: Names | None = None
    """The linears that are adapted, by role (query, key, value, qkv, output, up, gate, down) or by the end of a module's path; by default
    query and value, or qkv where they are one."""
    methods: Annotated[list[Any], Field(min_length=1)]
    """What is compared."""
    baseline: str = "best"
    """What a method is judged against: its best other order that runs, or a label of this scenario."""
    batch: Counts
    """Examples of a step (under `parallel` of one rank)."""
    seq: Counts | None = None
    """Tokens of a text, by default 128; {lengths: [64, 118]} or {file: lengths.txt} (a number a line, or a CSV with a column `length`)
    takes the median, 95th percentile and largest, with a padding mask. Images have their own."""
    precision: Precisions = ["fp32"]
    """fp32; bf16, all of it; amp-bf16, float32 weights under autocast."""
    checkpointing: Switches = [False]
    """Gradient checkpointing, as the model's `gradient_checkpointing_enable` does it."""
    parallel: Annotated[list[Any], Field(min_length=1), BeforeValidator(_entries)] | None = None
    """The ranks that a step is spread over; by default one process. DDP takes `gradient_as_bucket_view: true` too."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """torch's own, as it is by default."""
    adapter_dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Of the adapters' parameters."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """transformers' attention implementation."""
    allocator: Literal["default", "expandable_segments"] = "default"
    """Of a GPU, as PYTORCH_ALLOC_CONF sets it; measuring processes do without what the shell says there."""
    accumulate: Count = 1
    """Forward and backward passes of a step, whose gradients are summed."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the gradients, as `clip_grad_norm_` takes it."""
    loop: Loop = Loop()
    measure: Measure = Measure()
    data: Data | None = None
    """With it every method is trained and tested."""
    train: Train | None = None
    residuals: Residuals | None = None

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
