"""What a scenario's values mean together: model, task, roles, ranks, labels, checked against data and filled in. No torch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refta import registry
from refta.errors import SettingError
from refta.shapes import StackShape
from refta_profiler import devices, method_entries, models, own_code, parallel
from refta_profiler.errors import ScenarioError
from refta_profiler.method_entries import Variant
from refta_profiler.model_families import CAUSAL, IMAGES, SEQUENCES, LayerGroup
from refta_profiler.scenario_messages import Fault, shown
from refta_profiler.suggest import closest
from refta_profiler.task import checks

if TYPE_CHECKING:
    from refta_profiler.scenario import Scenario

TEXT_TOKENS = 128  # tokens of a text example where a scenario does not say
CLASSES = {IMAGES: 10, SEQUENCES: 2}  # num_labels where a scenario does not say: CIFAR-10's and a yes-or-no question's


@dataclass
class Findings:
    """What is filled in, and what is wrong."""

    filled: dict[str, Any]
    faults: list[Fault]

    def attempt(self, place: tuple[str | int, ...], look: Callable[[], Any]) -> Any:
        """What `look` gives; where it raises a ScenarioError, None and a fault at the place."""
        try:
            return look()
        except ScenarioError as error:
            self.faults.append(Fault(place, str(error)))
            return None


def resolve(
    draft: "Scenario", spoilt: set[str | int], folders: Mapping[str, Path], code: own_code.Look
) -> tuple[dict[str, Any], list[Fault]]:
    """What is to be filled in into a draft, and every mistake that needs more than its own value to be seen.

    Values under the keys in `spoilt` were wrong already and are stand-ins: nothing is said of them. Relative paths under a key are from
    `folders` of that key. `code` says what is wrong with a method of the user's own.
    """
    findings = Findings({}, [])
    _alone(draft, findings)
    variants = None if "methods" in spoilt else _methods(draft, findings, code)
    if "baseline" not in spoilt and variants is not None:
        _baseline(draft, variants, findings)
    if "model" not in spoilt and (groups := _model(draft, spoilt, folders["model"], findings)) is not None:
        chosen = [] if "targets" in spoilt else _targets(draft, groups, findings)
        for variant in variants or []:
            _fits(variant, chosen, findings)
    checks.check(draft, spoilt, folders["data"], variants or [], findings)
    return findings.filled, [fault for fault in findings.faults if fault.place[0] not in spoilt]


def _alone(draft: "Scenario", findings: Findings) -> None:
    """The values that need no model: the name, the device, values there twice, what is measured on the CPU."""
    if not re.fullmatch(r"\w[\w.+ -]*", draft.name):
        findings.faults.append(Fault(("name",), f"{shown(draft.name)} cannot name a folder; use letters, digits, '.', '-' and '_'"))
    if device := findings.attempt(("target",), lambda: devices.get(draft.target)):
        findings.filled["target"] = device.name  # as measurements call it, whatever alias or case it was written in
    for key in ("batch", "seq", "precision", "checkpointing", "targets"):
        values = getattr(draft, key) or []
        twice = dict.fromkeys(value for value in values if values.count(value) > 1)
        findings.faults += [Fault((key,), f"{shown(value)} is there {values.count(value)} times; write it once") for value in twice]
    _parallel(draft, findings)
    on_cpu = draft.measure.on_cpu
    on_cpu = on_cpu if on_cpu.batch else on_cpu.model_copy(update={"batch": [min(draft.batch)]})
    findings.filled["measure"] = draft.measure.model_copy(update={"on_cpu": on_cpu})


def _parallel(draft: "Scenario", findings: Findings) -> None:
    """The ways of spreading a step over ranks, each written as 'ddp:2' or 'none', and none twice."""
    if draft.parallel is None:
        return
    places = [("parallel", number) if len(draft.parallel) > 1 else ("parallel",) for number in range(len(draft.parallel))]
    texts = [findings.attempt(place, lambda v=value: parallel.checked(v)) for place, value in zip(places, draft.parallel, strict=True)]
    names = [text or parallel.NONE for text in texts if text is not None]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    findings.faults += [Fault(("parallel",), f"{shown(name)} is there {names.count(name)} times; write it once") for name in twice]
    findings.filled["parallel"] = names


def _methods(draft: "Scenario", findings: Findings, code: own_code.Look) -> list[Variant] | None:
    """The methods multiplied out; None where one is wrong, since labels are not known then."""
    variants, faults = method_entries.expand(draft.methods)
    for number, entry in enumerate(draft.methods):
        faults += code(("methods", number), entry) if own_code.is_own(entry) else []
    findings.faults += faults
    return None if faults else variants


def _baseline(draft: "Scenario", variants: list[Variant], findings: Findings) -> None:
    """The baseline is `best` or a label."""
    labels = ["best", *(variant.label for variant in variants)]
    if draft.baseline not in labels:
        found = closest(draft.baseline, labels)
        hint = f"did you mean '{found}'? " if found else ""
        findings.faults.append(
            Fault(("baseline",), f"no method has the label {shown(draft.baseline)}; {hint}there are {', '.join(labels)}")
        )


def _model(draft: "Scenario", spoilt: set[str | int], folder: Path, findings: Findings) -> list[LayerGroup] | None:
    """The model's layers, with its task and sequence lengths filled in; None where it or its shapes are not known."""
    model = _located(draft.model, folder)
    description = findings.attempt(("model",), lambda: models.describe(model))
    groups = findings.attempt(("model",), lambda: models.layers(model)) if description else None
    if ("model",) in [fault.place for fault in findings.faults]:
        return None
    findings.filled["model"] = model
    if draft.weights == "pretrained":
        _weights(description, findings)
    if "task" not in spoilt:
        kind = _task(draft, description, findings)
        _lengths(draft, model, kind, findings)
        if draft.loop.transformers and kind:
            _older(draft, (description.model_type, kind), findings)
    if draft.targets is None:
        has = [group.role for group in groups or []]
        findings.filled["targets"] = ["qkv"] if "qkv" in has else ["query", "value"]
    return groups


def _located(model: str, folder: Path) -> str:
    """The model as it can be found from anywhere: a preset or hub name as it is, a folder by its whole path."""
    if model in models.presets():
        return model
    for start in (folder, Path.cwd()):
        if (start / Path(model).expanduser()).is_dir():
            return str((start / Path(model).expanduser()).resolve())
    return model


def _weights(description: models.Description, findings: Findings) -> None:
    """Pretrained weights must be there: a folder's files, or a hub name that can be reached."""
    if description.pretrained is None:
        where = "the folder holds none" if description.origin == "folder" else "it has none"
        findings.faults.append(Fault(("weights",), f"no pretrained weights for '{description.name}' ({where}); write `weights: random`"))
    elif description.origin == "preset":
        hub = description.pretrained
        findings.attempt(("weights",), lambda: models.describe(hub))


def _task(draft: "Scenario", description: models.Description, findings: Findings) -> str | None:
    """The task's kind, with what follows from it filled in; num_labels asks a causal model for classification."""
    task, kinds = draft.task, models.task_kinds(description.name)
    kind = task.kind or (SEQUENCES if task.num_labels and SEQUENCES in kinds else kinds[0] if kinds else None)
    if kind is None:
        why = f"what a '{description.model_type}' model is for is not known"
        findings.faults.append(Fault(("task",), f"{why}; say it, e.g. task: {{kind: sequence-classification}}"))
        return None
    if kinds and kind not in kinds:
        findings.faults.append(Fault(("task", "kind"), f"{draft.model} is for {' or '.join(kinds)}, not for {kind}"))
        return None
    if kind == CAUSAL and task.num_labels:
        findings.faults.append(Fault(("task", "num_labels"), "a causal-lm task has no labels but the next token; leave num_labels out"))
    train_head = kind != CAUSAL if task.train_head is None else task.train_head
    labels = task.num_labels or CLASSES.get(kind)
    findings.filled["task"] = task.model_copy(update={"kind": kind, "num_labels": labels, "train_head": train_head})
    return kind


def _older(draft: "Scenario", of: tuple[str, str], findings: Findings) -> None:
    """A step as an older version makes it is known of one kind of model, and of one attention; see older.py."""
    if of != ("gpt2", CAUSAL):
        why = f"is known of GPT-2 with {CAUSAL} alone, not of {draft.model}; leave it out"
    elif draft.attention != "sdpa" or draft.loop.attention_mask:
        why = "is known of attention: sdpa without a mask alone; leave it out, or them"
    else:
        return
    findings.faults.append(Fault(("loop", "transformers"), why))


def _lengths(draft: "Scenario", model: str, kind: str | None, findings: Findings) -> None:
    """Sequence lengths are text's: images have their own count, and text no more than the model has positions for."""
    if kind == IMAGES and draft.seq is not None:
        tokens = models.tokens_per_sequence(model, None)
        count = f" ({tokens} tokens an image)" if tokens else ""
        findings.faults.append(Fault(("seq",), f"{draft.model} reads images{count}, so its sequence length is not set; leave seq out"))
    if kind in (None, IMAGES):
        return
    most = models.longest_sequence(model)
    findings.filled["seq"] = draft.seq or [min(TEXT_TOKENS, most or TEXT_TOKENS)]
    for number, tokens in enumerate(draft.seq or []):
        if most is not None and tokens > most:
            place = ("seq", number) if len(draft.seq or []) > 1 else ("seq",)
            findings.faults.append(Fault(place, f"{tokens} tokens are more than the {most} positions of {draft.model}"))


def _targets(draft: "Scenario", groups: list[LayerGroup], findings: Findings) -> list[LayerGroup]:
    """The groups that the targets mean; a target that the model lacks is a fault."""
    targets = draft.targets or findings.filled["targets"]
    found = [
        findings.attempt(("targets", number), lambda t=target: models.select(groups, [t], draft.model))
        for number, target in enumerate(targets)
    ]
    if None in found or len(set(targets)) < len(targets):
        return [group for chosen in found for group in chosen or []]
    return findings.attempt(("targets",), lambda: models.select(groups, targets, draft.model)) or []


def _fits(variant: Variant, chosen: list[LayerGroup], findings: Findings) -> None:
    """A method may refuse a shape, e.g. a rank above a stack's components: its own file knows. The smallest stack is asked first."""
    if variant.method == own_code.NAME:
        return
    settings = registry.settings(variant.method, variant.settings)
    for group in sorted(chosen, key=lambda group: group.largest_rank):
        shape = StackShape(group.template, group.role, group.layers, group.n, group.d, group.bias)
        try:
            registry.method(variant.method).network(settings, shape)
        except SettingError as error:
            findings.faults.append(Fault(("methods", variant.entry), str(error)))
            return
