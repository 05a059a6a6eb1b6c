"""What a scenario says of its task, checked with its data and filled in. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refta import registry
from refta_profiler.model_families import CAUSAL, IMAGES
from refta_profiler.model_source import TOKENIZER_FILES
from refta_profiler.scenario_messages import Fault, shown
from refta_profiler.suggest import closest
from refta_profiler.task import data as examples
from refta_profiler.task import store
from refta_profiler.task.data_files import DataFault
from refta_profiler.task.settings import Data, Train

if TYPE_CHECKING:
    from refta_profiler.method_entries import Variant
    from refta_profiler.scenario import Scenario
    from refta_profiler.scenario_checks import Findings

EPOCHS = 3.0


def check(draft: Scenario, spoilt: set[str | int], folder: Path, variants: Sequence[Variant], findings: Findings) -> None:
    """Nothing; data and train are filled in, their mistakes found. Relative paths are from the scenario's folder, or from here."""
    if draft.residuals is not None and draft.weights != "pretrained":
        findings.faults.append(Fault(("residuals",), "random weights have no principal components; write weights: pretrained"))
    if draft.data is None:
        if draft.train is not None and "data" not in spoilt:
            findings.faults.append(Fault(("train",), "there is no data to train on; write data: {train: train.csv, test: test.csv}"))
        return
    findings.filled["data"] = found = _located(draft.data, folder)
    findings.filled["train"] = _train(draft.train or Train(), variants, findings)
    if draft.accumulate > 1:
        findings.faults.append(Fault(("accumulate",), "with data every step is one batch; leave it out and write a larger batch"))
    if draft.parallel is not None:
        findings.faults.append(Fault(("parallel",), "with data a training is one process; leave it out"))
    task = findings.filled.get("task")
    if task is None or "data" in spoilt:
        return
    if task.kind == CAUSAL:
        findings.faults.append(Fault(("data",), "a causal-lm task has no labels to be tested on; write task: {num_labels: 2}"))
        return
    try:
        splits = examples.read(found, task.num_labels or 2, seed=draft.seed)
    except DataFault as error:
        findings.faults.append(Fault(("data", error.key), str(error)))
        return
    if not splits.images and lacks_tokenizer(model := str(findings.filled.get("model", draft.model))):
        hint = "save its tokenizer there too (tokenizer.save_pretrained)"
        findings.faults.append(Fault(("model",), f"the folder '{model}' holds no tokenizer, so texts cannot be read; {hint}"))
    if splits.images != (task.kind == IMAGES):
        what = ("images", "reads text") if splits.images else ("text", "reads images")
        findings.faults.append(Fault(("data",), f"the data are {what[0]} and {draft.model} {what[1]}"))


def lacks_tokenizer(model: str) -> bool:
    """Whether it is a folder without one: the transformers library would make up an empty one, to which every word is unknown."""
    return Path(model).is_dir() and not any((Path(model) / name).is_file() for name in TOKENIZER_FILES)


def _located(data: Data, folder: Path) -> Data:
    """The data with whole paths."""
    if data.name is not None:
        return data
    paths = {key: value for key in examples.SPLITS if isinstance(value := getattr(data, key), str)}
    return data.model_copy(update={key: _path(value, folder) for key, value in paths.items()})


def _path(value: str, folder: Path) -> str:
    for start in (folder, Path.cwd()):
        if (start / Path(value).expanduser()).exists():
            return str((start / Path(value).expanduser()).resolve())
    return str(folder / Path(value).expanduser())


def _train(train: Train, variants: Sequence[Variant], findings: Findings) -> Train:
    """The training with its length; steps beside epochs, seeds or rates there twice and rates for methods that are not there are faults."""
    if train.steps is not None and train.epochs is not None:
        findings.faults.append(Fault(("train", "epochs"), "is there beside steps; write one of the two"))
    if len(set(train.seeds)) < len(train.seeds):
        findings.faults.append(Fault(("train", "seeds"), "a seed is there twice; write each once"))
    if train.lr_seeds > len(train.seeds):
        findings.faults.append(Fault(("train", "lr_seeds"), f"{train.lr_seeds} is more than the {len(train.seeds)} seeds there are"))
    for name, tried in train.lr.items():
        written = [store.shown_rate(rate) for rate in tried]  # as in the names of the runs' files: of one rate there is one file
        for rate in sorted({rate for rate in written if written.count(rate) > 1}):
            findings.faults.append(Fault(("train", "lr"), f"{name}: {rate} is there twice; write each learning rate once"))
    known = ["default", *dict.fromkeys(name for variant in variants for name in (variant.label, variant.method))]
    for name in train.lr if variants else {}:
        if name not in known and name not in registry.names():  # a scenario that extends another may leave a method out
            near = closest(name, known)
            hint = f"did you mean '{near}'? " if near else ""
            findings.faults.append(Fault(("train", "lr"), f"{shown(name)} is no label or method here; {hint}there are {', '.join(known)}"))
    lacking = [one.label for one in variants if not {one.label, one.method, "default"} & set(train.lr)]
    if lacking:
        findings.faults.append(Fault(("train", "lr"), f"there is none for '{lacking[0]}'; add default: [1e-4, 1e-3]"))
    return train.model_copy(update={"epochs": EPOCHS}) if train.steps is None and train.epochs is None else train


def rates(train: Train, label: str, method: str) -> list[float]:
    """The learning rates that a method is tried at, ascending: those under its label, its method, or default."""
    return sorted(next(train.lr[name] for name in (label, method, "default") if name in train.lr))
