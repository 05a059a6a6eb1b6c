"""What a scenario and its methods may hold, told from the settings themselves: every key, what it takes, its default, what it is for.

No torch. docs/scenario.md is made from this: `python -m refta_profiler list settings --json` has the same entries.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

import annotated_types
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from refta import registry
from refta_profiler import own_code
from refta_profiler.parallel import FORM
from refta_profiler.scenario import Scenario
from refta_profiler.settings import listed

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "value"}
ENTRIES = {  # what pydantic's models leave open
    "methods": "a list of {name: METHOD, its settings, order, label}; `list methods METHOD` shows the settings",
    "parallel": FORM,
}

DEFAULTS = {"name": "the file's name"}  # what is filled in before a scenario is checked
NESTED = "settings of its own"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One setting. key: dotted where it is inside another, `measure.on_cpu.steps`; default: as YAML has it, '' where it is required."""

    key: str
    takes: str
    default: str
    meaning: str

    @property
    def usual(self) -> str:
        """The default, or that there has to be a value; '' of settings of its own, which have theirs."""
        return self.default or ("" if self.takes == NESTED else "required")


def scenario() -> list[Entry]:
    """Every setting of a scenario, in the order in which they are declared."""
    return list(_entries(Scenario, ""))


def method(name: str) -> list[Entry]:
    """Every setting of a method; the meaning of each is in the docstring of its `Settings` (`about`)."""
    declared = registry.method(name).Settings
    hints = typing.get_type_hints(declared)
    return [Entry(one.name, _takes(hints[one.name]), _default(_given(one)), "") for one in dataclasses.fields(declared)]


def _given(field: dataclasses.Field) -> Any:
    """The value of a setting that is left out."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def about(name: str) -> str:
    """What the settings of a method mean, in its own words; '' where it has none."""
    text = registry.method(name).Settings.__doc__ or ""
    return "" if text.startswith("Settings(") else " ".join(text.replace("`", "").split())


def _entries(model: type[BaseModel], prefix: str) -> Iterator[Entry]:
    for name, found in model.model_fields.items():
        key, inner = f"{prefix}{name}", _model(found.annotation)
        if inner is None:
            default = DEFAULTS.get(key, "") if found.is_required() else _default(found.default)
            yield Entry(key, ENTRIES.get(key) or _of_field(found), default, " ".join((found.description or "").split()))
        else:
            yield Entry(key, NESTED, _default(None) if found.default is None else "", _first(inner))
            yield from _entries(inner, f"{key}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The settings that the annotation stands for, given or not; None where it is a value."""
    options = [annotation, *typing.get_args(annotation)]
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _first(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


def _of_field(found: FieldInfo) -> str:
    return _takes(typing.Annotated[found.annotation, *found.metadata] if found.metadata else found.annotation)


def _takes(annotation: Any) -> str:
    """'whole number from 1', 'one of auto, always, never', 'one of fp32, bf16 or a list of them'."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        if any(isinstance(one, BeforeValidator) and one.func is listed for one in inner[1:]):
            return f"{_takes(typing.get_args(inner[0])[0])}, or a list"
        return _takes(inner[0]) + "".join(_bound(one) for one in inner[1:])
    if origin is typing.Literal:
        values = ", ".join(_default(one) for one in inner)
        return f"one of {values}" if len(inner) > 1 else values
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_takes(one) for one in inner if one is not type(None))
    if origin is list:
        return f"a list of {_takes(inner[0]).removeprefix('one of ')}"
    if origin is dict:
        return f"a mapping to {_takes(inner[1])}"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bound(one: Any) -> str:
    """' from 1', ' above 0', ' below 1' of what bounds a value; '' of anything else."""
    if isinstance(one, FieldInfo):
        return "".join(_bound(inner) for inner in one.metadata)
    limits = ((annotated_types.Ge, "ge", "from"), (annotated_types.Gt, "gt", "above"), (annotated_types.Lt, "lt", "below"))
    found = next(((words, getattr(one, name)) for kind, name, words in limits if isinstance(one, kind)), None)
    return f" {found[0]} {'2**' + str(found[1].bit_length() - 1) if found[1] > 2**30 else found[1]}" if found else ""


def _default(value: Any) -> str:
    """The value as YAML has it."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_default(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_default(one)}' for name, one in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown() -> str:
    """docs/scenario.md: the settings of a scenario and of every method."""
    heading = ["# Every setting of a scenario", "", "Made by `make docs` from the settings themselves; do not edit.", ""]
    lines = [*heading, *_rows(scenario()), "", "# Every setting of a method", ""]
    lines += [
        f"An entry of `methods` also takes `order`, `label`, and lists, which multiply out. Orders are compared where labels differ in "
        f"the order's name alone: `ours/shared` and `ours/slices`. `{own_code.NAME}` runs your own code.",
        "",
    ]
    lines += ["`dropout` is of what the adapter reads, where nothing else is said.", ""]
    for name in registry.names():
        orders = registry.orders(name)
        lines += [f"## {name}", "", f"{registry.summary(name)}.{' Orders: ' + ', '.join(orders) + '.' if orders else ''}", ""]
        settings = method(name)
        lines += [f"{about(name)}", ""] if settings and about(name) else []
        lines += [*_rows(settings), ""] if settings else []
    return "\n".join(lines).rstrip() + "\n"


def _rows(entries: list[Entry]) -> list[str]:
    with_meaning = any(one.meaning for one in entries)
    head = ["setting", "takes", "default", *(["meaning"] if with_meaning else [])]
    table = [head, ["---"] * len(head)]
    for one in entries:
        default = f"`{one.default}`" if one.default not in ("", "not given") else one.usual
        table.append([f"`{one.key}`", one.takes, default, *([one.meaning] if with_meaning else [])])
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
