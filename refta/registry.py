"""The registry of methods: the files of `refta/methods/`. Imports no torch.

A method's file defines SUMMARY, a frozen dataclass `Settings` (whose `__post_init__` raises SettingError), the tuple ORDERS of the
orders it runs (the default first; empty where it has none) and `network(settings, shape) -> Network | None`. A method that is more
than its networks also has `attach(model, stacks, settings, run) -> Attached`, which alone may import torch. TARGETS: the sites of a
method that always adapts the same ones, with a NOTE that says so.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import typing
from types import ModuleType
from typing import Any

from refta.errors import SettingError

_FOLDER = importlib.import_module("refta.methods")


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(found.name for found in pkgutil.iter_modules(_FOLDER.__path__))


def method(name: str) -> ModuleType:
    """The method's module; raises SettingError that suggests near names."""
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise SettingError(f"unknown method '{name}'; {hint}there are {', '.join(names())}")
    return importlib.import_module(f"refta.methods.{name}")


def summary(name: str) -> str:
    """One line that says what the method is."""
    return method(name).SUMMARY


def orders(name: str) -> list[str]:
    """The orders that the method runs, its aliases and `auto` last; empty where it has none."""
    return list(method(name).ORDERS)


def setting_names(name: str) -> list[str]:
    """The settings that the method takes."""
    return [one.name for one in dataclasses.fields(method(name).Settings)]


def list_settings(name: str) -> set[str]:
    """The settings whose value is a list (or may be one) by nature, so that only a list of lists multiplies out."""
    hints = typing.get_type_hints(method(name).Settings)
    return {key for key, hint in hints.items() if _is_list(hint)}


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, tuple) or any(_is_list(one) for one in typing.get_args(hint))


def settings(name: str, given: dict[str, Any]) -> Any:
    """The method's Settings from a mapping; raises SettingError that names the key and the fault."""
    known = setting_names(name)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise SettingError(f"unknown key '{key}'; {hint}{name} takes {', '.join(known) or 'no settings'}")
    return method(name).Settings(**given)


def check_settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """All settings of the method, defaults filled in; raises SettingError that names the key and the fault."""
    return dataclasses.asdict(settings(name, given))


def whole_number(name: str, value: Any, *, least: int = 1) -> None:
    """Nothing; raises SettingError unless the value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(f"{name}: {value!r}; it must be a whole number of at least {least}")


def share(name: str, value: Any) -> None:
    """Nothing; raises SettingError unless the value is a number from 0 up to, not including, 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise SettingError(f"{name}: {value!r}; it must be a number from 0 up to, not including, 1")


def number_list(name: str, value: Any) -> None:
    """Nothing; raises SettingError unless the value is None or a list of whole numbers of at least 1."""
    if value is None:
        return
    if not isinstance(value, (list, tuple)) or not value:
        raise SettingError(f"{name}: {value!r}; it must be a list of whole numbers such as [16, 8, 8]")
    for one in value:
        whole_number(name, one)


def positive(name: str, value: Any) -> None:
    """Nothing; raises SettingError unless the value is None or a number above 0."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
        raise SettingError(f"{name}: {value!r}; it must be a number above 0")
