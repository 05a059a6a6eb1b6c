"""The section on the recipe: what was trained and how, to be repeated by hand; settings that a scenario leaves out are there as well."""

from collections.abc import Mapping
from typing import Any

from refta_profiler import method_entries, optimizers
from refta_profiler.method_entries import Variant
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Column, Section, Table
from refta_profiler.report.tables import count_cell, text_cell
from refta_profiler.units import format_count

FIRST = ("alpha", "dropout")  # settings with a column of their own
SHARED = {
    "model": "model",
    "task": "task",
    "weights": "weights",
    "seed": "seed of weights and batches",
    "targets": "adapted layers",
    "optimizer": "optimizer",
    "precision": "precision",
    "adapter_dtype": "dtype of the adapters",
    "checkpointing": "gradient checkpointing",
    "batch": "batch",
    "seq": "tokens of an example",
    "attention": "attention",
    "allocator": "allocator",
    "accumulate": "forwards a step",
    "clip": "clipping of gradients",
    "loop": "training loop",
    "data": "data",
    "train": "training",
}


def recipe_section(material: Material) -> Section | None:
    """Every method's settings, and what all of them share; None where the scenario names no methods."""
    variants, _ = method_entries.expand(material.scenario.get("methods") or [])
    tables = [methods_table(material, variants)] if variants else []
    tables += [shared_table(material)] if material.scenario else []
    return Section("recipe", "Recipe", tables) if tables else None


def methods_table(material: Material, variants: list[Variant]) -> Table:
    """A row a label."""
    counts: dict[str, int] = {}
    for row in material.rows:
        if row.metric == "adapter_parameters" and row.value is not None:
            counts.setdefault(row.label, int(row.value))
    columns = [Column("label"), Column("method"), Column("order"), Column("rank", "", "rank", True)]
    columns += [Column(name, "", name, True) for name in FIRST] + [Column("other settings"), Column("trained numbers", "", "trained", True)]
    rows = [
        [
            text_cell(variant.label),
            text_cell(variant.method),
            text_cell(variant.order),
            count_cell(variant.rank),
            *(text_cell(shown(variant.settings.get(name))) for name in FIRST),
            text_cell(", ".join(f"{key} {shown(value)}" for key, value in rest(variant.settings).items())),
            count_cell(counts.get(variant.label)),
        ]
        for variant in variants
    ]
    caption = (
        "Every method with its settings, those left to their defaults included; the numbers trained are the adapter's alone. "
        "Where LoRA or PiSSA have a dash as alpha, it is the rank."
    )
    return Table("recipe", caption, columns, rows)


def rest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without a column of their own that have a value."""
    return {key: value for key, value in settings.items() if key not in ("rank", *FIRST) and value is not None}


def shared_table(material: Material) -> Table:
    """A row a setting of the scenario."""
    rows = [
        [text_cell(words), text_cell(shared_words(material, key, value))]
        for key, words in SHARED.items()
        if (value := material.scenario.get(key)) is not None
    ]
    rows += [[text_cell("measurement"), text_cell(text)] for text in [protocol(material)] if text]
    return Table("recipe-shared", "What all methods share.", [Column("what"), Column("value")], rows)


def shared_words(material: Material, key: str, value: Any) -> str:
    """A setting as it is read; the optimizer's learning rate with it, but where training has rates of its own."""
    if key != "optimizer":
        return shown(value)
    return optimizers.TITLES.get(str(value), str(value)) if material.training else optimizers.words(str(value))


def protocol(material: Material) -> str:
    """How times were taken: warm-up, steps and repeats on the device that measured."""
    if not material.measured_targets:
        return ""
    settings = material.scenario.get("measure") or {}
    settings = settings if any(target != "cpu" for target in material.measured_targets) else settings.get("on_cpu") or {}
    known = {name: settings[name] for name in ("warmup", "steps", "repeats") if name in settings}
    return ", ".join(f"{name} {value}" for name, value in known.items()) + ", processes of their own that take turns" if known else ""


def shown(value: Any) -> str:
    """A setting as it is read: 'query, value'; 'off'; 'kind image-classification, num_labels 10'."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(one) for one in value)
    return "" if value is None else format_count(value) if isinstance(value, int) and value >= 1000 else str(value)
