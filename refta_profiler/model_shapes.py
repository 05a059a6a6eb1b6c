"""Shapes, roles, tasks and token counts of a model by its name, from data alone: no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from refta_profiler.errors import ScenarioError
from refta_profiler.model_families import CAUSAL, FAMILIES, IMAGES, ROLES, SEQUENCES, Family, LayerGroup
from refta_profiler.model_source import describe
from refta_profiler.suggest import closest

ARCHITECTURES = {"ForImageClassification": IMAGES, "ForSequenceClassification": SEQUENCES, "ForMaskedLM": SEQUENCES}
ARCHITECTURES |= {"ForCausalLM": CAUSAL, "LMHeadModel": CAUSAL}
POSITIONS = ("max_position_embeddings", "n_positions")  # what a config.json calls them
RELATIVE = ("relative_attention", "relative_attention_num_buckets")  # which it has where they are no limit


def family(name: str) -> Family | None:
    """The family of a model; None for an architecture whose shapes are not described as data."""
    return FAMILIES.get(describe(name).model_type)


def layers(name: str, wanted: Sequence[str] | None = None) -> list[LayerGroup] | None:
    """The linears of a model's layers in the order of a forward, a group per role; None for an architecture not described as data.

    `wanted` keeps the groups of those roles (or whose module names end so); ScenarioError names the roles there are where one is missing.
    """
    description = describe(name)
    known = FAMILIES.get(description.model_type)
    try:
        groups = known.groups(description.settings) if known else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ScenarioError(f"{description.source}: the shapes cannot be read ({type(error).__name__}: {error})") from None
    return groups if groups is None or wanted is None else select(groups, wanted, name)


def select(groups: list[LayerGroup], wanted: Sequence[str], name: str) -> list[LayerGroup]:
    """The groups that `wanted` means, in the order of a forward; ScenarioError where one means none, or two mean the same linear."""
    kept: dict[str, LayerGroup] = {}
    meant_by: dict[str, str] = {}
    for target in dict.fromkeys(wanted):
        for group in _meant(groups, target, name):
            for module in group.names:
                if (other := meant_by.setdefault(module, target)) != target:
                    raise ScenarioError(f"'{other}' and '{target}' both mean {module} of {name}; a linear is adapted once")
            kept[group.template] = group
    return sorted(kept.values(), key=lambda group: (ROLES.index(group.role), group.first))


def _meant(groups: list[LayerGroup], target: str, name: str) -> list[LayerGroup]:
    """The groups of a role, or those whose module names end in `target`; a name with a layer's number is a group of one."""
    ends = [x for x in groups if f".{x.template}".endswith(f".{target}")]
    found = [x for x in groups if x.role == target] or ends or _single(groups, target)
    if not found:
        has = ", ".join(dict.fromkeys(group.role for group in groups))
        close = closest(target, [group.role for group in groups] + [x.template.rsplit(".", 1)[1] for x in groups])
        hint = f"; did you mean '{close}'?" if close else ""
        what = f"no role '{target}'" if target in ROLES else f"no role or linear '{target}' in its layers"
        raise ScenarioError(f"{name} has {what}{hint} (it has {has})")
    return found


def _single(groups: list[LayerGroup], target: str) -> list[LayerGroup]:
    """A group of one layer for every linear whose name, its layer's number in it, ends in `target`."""
    numbered = [(x, number, module) for x in groups for number, module in zip(x.numbers, x.names, strict=True)]
    return [replace(x, layers=1, template=module, first=number) for x, number, module in numbered if f".{module}".endswith(f".{target}")]


def roles(name: str) -> list[str] | None:
    """The roles a model has, in the order of a forward; None for an architecture not described as data."""
    groups = layers(name)
    return None if groups is None else list(dict.fromkeys(group.role for group in groups))


def task_kinds(name: str) -> tuple[str, ...]:
    """The tasks a model can do, its own first; ScenarioError where neither its family nor its config.json tells."""
    description = describe(name)
    if known := FAMILIES.get(description.model_type):
        return known.tasks
    for architecture in description.settings.get("architectures") or ():
        for ending, kind in ARCHITECTURES.items():
            if architecture.endswith(ending):
                return (CAUSAL, SEQUENCES) if kind == CAUSAL else (kind,)
    if "vocab_size" not in description.settings and "image_size" in description.settings:
        return (IMAGES,)
    return ()


def tokens_per_sequence(name: str, seq: int | None) -> int | None:
    """Tokens that one example has inside the model: `seq` for text, for images the model's own count, None where that is not known.

    ViT-L/16 at 224 pixels: (224/16)² patches + 1 = 197.
    """
    known = family(name)
    if seq is not None:
        return seq
    if known is None or IMAGES not in known.tasks:
        return None
    settings = known.complete(describe(name).settings)
    (height, width), (down, across) = fed_size(name, settings["image_size"]), _pair(settings["patch_size"])
    return (height // down) * (width // across) + known.special_tokens


def fed_size(name: str, image_size: Any) -> tuple[int, int]:
    """Height and width of the images that the model is fed: the config's, or the image processor's for a model that takes any size."""
    known, fed = family(name), describe(name).input_size
    return _pair(fed if known is not None and known.interpolates and fed else image_size)


def _pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that is one number or two."""
    return (size[0], size[1]) if isinstance(size, list | tuple) else (size, size)


def head_size(name: str) -> int | None:
    """The width of one attention head, from a model's settings; None where they do not say it. ViT-L: 1,024 / 16 = 64, ViT-H: 80."""
    known, settings = family(name), describe(name).settings
    settings = {**(known.defaults if known else {}), **settings}
    width = settings.get("hidden_size", settings.get("n_embd"))
    heads = settings.get("num_attention_heads", settings.get("n_head"))
    given = settings.get("head_dim")
    return given if isinstance(given, int) else (width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None)


def longest_sequence(name: str) -> int | None:
    """The most tokens of text that a model has positions for; None for images, relative positions and where its config says none."""
    known, settings = family(name), describe(name).settings
    if known is None:
        return _positions(settings)
    return None if IMAGES in known.tasks else known.positions(known.complete(settings))


def _positions(settings: Mapping[str, Any]) -> int | None:
    """The positions that the config of an architecture not described as data states; T5 and DeBERTa state some and have relative ones."""
    if any(settings.get(key) for key in RELATIVE):
        return None
    stated = (settings.get(key) for key in POSITIONS)
    return next((value for value in stated if isinstance(value, int) and value > 0), None)


def fingerprint(name: str) -> str:
    """Eight hex digits of a hash of the model's description, so that results of one architecture are never taken for another's."""
    description = describe(name)
    content = json.dumps([description.model_type, dict(description.settings), description.input_size], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]
