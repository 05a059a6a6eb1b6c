"""A scenario file as plain values: YAML with `extends` and `--set`, and which file each value is from. No torch."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refta_profiler.errors import ScenarioError
from refta_profiler.scenario_yaml import parse
from refta_profiler.suggest import closest

Path_ = tuple[str | int, ...]  # where a value stands: ("methods", 2, "rank")


@dataclass(frozen=True)
class Origin:
    """Where a value was written: what to call it in a message, and the folder that relative paths are from."""

    label: str
    folder: Path


@dataclass
class Document:
    """What a scenario says in all, before it is checked."""

    values: dict[str, Any]
    origin: Origin
    origins: dict[Path_, Origin] = field(default_factory=dict)

    def origin_of(self, place: Path_) -> Origin:
        """Who wrote the value at a place: the nearest written thing at it or above it."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.origins:
                return self.origins[place[:length]]
        return self.origin


def read(path: Path, overrides: list[str]) -> Document:
    """The values of a scenario file, those of the files it extends under them, and `--set key=value` over them."""
    document = _read_with_base(path, ())
    for override in overrides:
        _set(document, override)
    return document


def place_name(place: Path_) -> str:
    """A place as a person writes it.

    >>> place_name(("methods", 2, "rank"))
    'methods[2].rank'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


# ---- one file


def _read_file(path: Path, called: str) -> dict[str, Any]:
    """The mapping in one file; `called` is what messages call the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = closest(path.name, [x.name for x in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else None
        raise ScenarioError(f"{called}: there is no such file" + (f"; did you mean '{path.parent / near}'?" if near else "")) from None
    except IsADirectoryError:
        raise ScenarioError(f"{called}: is a folder; give a scenario file in it") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{called}: not a text file: byte {error.start} is not UTF-8; a scenario is YAML text") from None
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{called}: cannot be read: {error}") from None
    values = parse(text, called)
    if values is None:
        raise ScenarioError(f"{called}: the file is empty; a scenario has at least model, methods and batch")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else f"the single value {values!r:.40}"
        raise ScenarioError(f"{called}: holds {kind}, not a mapping; write `model: …`, `methods: …` and `batch: …` at the left margin")
    return values


# ---- extends


def _read_with_base(path: Path, chain: tuple[Path, ...]) -> Document:
    """A file's document over that of the file it extends; a scenario's name is its own and never its base's."""
    called = path.name if os.path.isfile(path) else f"{chain[-1].name}: extends: {path}" if chain else str(path)
    if chain and os.path.realpath(path) in [os.path.realpath(file) for file in chain]:
        raise ScenarioError(f"{chain[0].name}: extends: goes round in a circle: {' → '.join(file.name for file in (*chain, path))}")
    values = _read_file(path, called)
    base_name = values.pop("extends", None)
    origin = Origin(path.name, Path(os.path.realpath(path)).parent)
    own = Document({}, origin)
    if base_name is not None:
        if not isinstance(base_name, str):
            raise ScenarioError(f"{path.name}: extends: {base_name!r} is not a file's name; write e.g. `extends: base.yaml`")
        base = _read_with_base(path.parent / base_name, (*chain, path))
        base.values.pop("name", None)
        own = Document(base.values, origin, base.origins)
    _merge(own, values, (), origin)
    return own


def _merge(document: Document, values: Mapping[Any, Any], place: Path_, origin: Origin) -> None:
    """Write values over a document's: mappings key by key, everything else whole (a list replaces a list)."""
    target: Any = document.values
    for part in place:
        target = target[part]
    for key, value in values.items():
        here = (*place, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(document, value, here, origin)
            continue
        target[key] = value
        for old in [known for known in document.origins if known[: len(here)] == here]:
            del document.origins[old]
        document.origins[here] = origin


# ---- --set


def _set(document: Document, override: str) -> None:
    """Write one `key=value` over a document; the key may be dotted and indexed, the value is YAML."""
    key, equals, text = override.partition("=")
    label = f"--set {override}"
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", key.strip())
    if not equals or not parts or place_name(_place(parts)) != key.strip():
        raise ScenarioError(f"{label}: not of the form key=value, e.g. --set batch=[4,8] or --set measure.on_cpu.steps=2")
    place = _place(parts)
    value = parse(text, label)
    target: Any = document.values
    for depth, part in enumerate(place[:-1]):
        target = _step(target, part, place[: depth + 1], label, place[depth + 1])
    last = place[-1]
    _check_step(target, last, place, label)
    target[last] = value
    document.origins = {known: origin for known, origin in document.origins.items() if known[: len(place)] != place}
    document.origins[place] = Origin(f"--set {key.strip()}", Path.cwd())


def _place(parts: list[tuple[str, str]]) -> Path_:
    """The place that a key's parts name."""
    return tuple(int(index) if index else name for index, name in parts)


def _step(target: Any, part: str | int, place: Path_, label: str, following: str | int) -> Any:
    """What stands at one part of a key; a mapping is made where nothing does."""
    _check_step(target, part, place, label)
    if isinstance(target, dict) and target.get(part) is None and isinstance(following, str):
        target[part] = {}
    return target.get(part) if isinstance(target, dict) else target[part]


def _check_step(target: Any, part: str | int, place: Path_, label: str) -> None:
    """ScenarioError where a key's part cannot be stepped to."""
    where = place_name(place[:-1]) or "the scenario"
    if isinstance(part, str) and not isinstance(target, dict):
        kind = f"a list of {len(target)}; write {where}[0].{part}" if isinstance(target, list) else "not a mapping"
        raise ScenarioError(f"{label}: {where} is {kind}")
    if isinstance(part, int) and (not isinstance(target, list) or part >= len(target)):
        kind = f"has {len(target)} entries, the first is [0]" if isinstance(target, list) else "is not a list"
        raise ScenarioError(f"{label}: {where} {kind}")
