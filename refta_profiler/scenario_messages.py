"""pydantic's errors as a person reads them: where, what, and what would be right. No torch."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from refta_profiler.suggest import closest

Place = tuple[str | int, ...]  # where a value stands: ("measure", "on_cpu", "batch", 0)


class Fault(NamedTuple):
    """One mistake: where it is, what to say, and which key at that place is the mistake, where one is."""

    place: Place
    text: str
    key: Any = None

    @property
    def whole(self) -> Place:
        """The place with the key."""
        return self.place if self.key is None else (*self.place, self.key)


EXAMPLES = {"model": "model: vit-large", "methods": "methods: [{name: refta, rank: 15}]", "batch": "batch: [1, 8, 32]"}
# what people write for a boolean: YAML 1.1's words, and the right ones in quotes
WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false", "true": "true", "false": "false"}


def faults(error: ValidationError, values: Mapping[Any, Any], shape: type[BaseModel]) -> list[Fault]:
    """Every mistake with the place it is at in `values`."""
    return [_fault(dict(found), values, shape) for found in error.errors(include_url=False)]


def shown(value: Any) -> str:
    """A value as it would stand in YAML, cut where it is long."""
    if isinstance(value, str):
        text = f"'{value}'"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _fault(found: dict[str, Any], values: Mapping[Any, Any], shape: type[BaseModel]) -> Fault:
    """One of pydantic's errors as a place and what is wrong there."""
    place = _written(found["loc"], values)
    kind, value, limits = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return Fault(place[:-1], _unknown_key(place, shape), place[-1])
    if kind == "missing":
        key = str(place[-1])
        example = f"; e.g. `{EXAMPLES[key]}`" if key in EXAMPLES else ""
        return Fault(place[:-1], f"'{key}' is missing{example}", key)
    if kind == "invalid_key":
        return Fault(found["loc"][:-1], f"the key {shown(value)} is not a word", found["loc"][-1])
    return Fault(place, _wrong_value(kind, value, limits, found["msg"]))


def _written(location: Place, values: Mapping[Any, Any]) -> Place:
    """The part of pydantic's location that a person wrote: a single value that was read as a list has no index."""
    at: Any = values
    for depth, part in enumerate(location):
        if isinstance(part, int) != isinstance(at, list) and not isinstance(at, dict):
            return location[:depth]
        inside: Any = dict(enumerate(at)) if isinstance(at, list) else at if isinstance(at, dict) else {}
        if part not in inside:
            return location[: depth + 1]
        at = inside[part]
    return location


def _unknown_key(place: Place, shape: type[BaseModel]) -> str:
    """What to say of a key that is not known at its place, with the closest one there, or the place where it is known."""
    paths = list(_key_paths(shape, ()))
    *above, key = [str(part) for part in place if not isinstance(part, int)]
    here = [path[-1] for path in paths if path[:-1] == tuple(above)]
    if found := closest(key, here):
        return f"unknown key '{key}'; did you mean '{found}'?"
    if elsewhere := [path for path in paths if path[-1] == key]:
        return f"unknown key '{key}' here; did you mean '{'.'.join(elsewhere[0])}'?"
    return f"unknown key '{key}'; there are {', '.join(here)}"


def _key_paths(shape: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every key of a scenario with those above it, the outer ones first."""
    inner = []
    for key, field in shape.model_fields.items():
        yield (*above, key)
        for inside in (field.annotation, *get_args(field.annotation)):  # also of what may be left out: `Data | None`
            if isinstance(inside, type) and issubclass(inside, BaseModel):
                inner.append((inside, (*above, key)))
    for shape_below, path in inner:
        yield from _key_paths(shape_below, path)


def _wrong_value(kind: str, value: Any, limits: Mapping[str, Any], message: str) -> str:
    """What to say of a value of the wrong type or size."""
    if value is None:
        return "nothing is written here; write a value or leave the key out"
    if kind in ("int_type", "int_from_float", "int_parsing", "int_parsing_size"):
        return f"{shown(value)} is not a whole number{_whole_number_hint(value)}"
    if kind == "bool_type":
        word = WORDS.get(str(value).lower(), "true or false")
        return f"{shown(value)} is not true or false; write {word}"
    if kind in ("greater_than_equal", "greater_than"):
        least = f"the least is {limits['ge']}" if kind == "greater_than_equal" else f"it must be more than {limits['gt']}"
        return f"{shown(value)} is too small; {least}"
    if kind == "too_short":
        return "is an empty list; give at least one"
    if kind == "literal_error":
        known = message.removeprefix("Input should be ").replace(" or ", ", ").replace("True", "true").replace("False", "false")
        word = WORDS.get(str(value).lower())
        if isinstance(value, str) and word in known.split(", "):
            return f"{shown(value)} is text; write {word}"
        found = closest(value, [name.strip("' ") for name in known.split(",")])
        return (
            f"unknown value {shown(value)}; "
            + (f"did you mean '{found}'? " if found else "")
            + f"there {'are' if ', ' in known else 'is'} {known}"
        )
    return f"{shown(value)} {_expected(kind, value, message)}"


def _whole_number_hint(value: Any) -> str:
    """What to write instead of a value that looks like a whole number and is none."""
    if isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return f" but text; write {value.strip()} without quotes"
    return "; write one, e.g. 8"


def _expected(kind: str, value: Any, message: str) -> str:
    """What should stand instead of a value of another type."""
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        what = "is a list, not a mapping" if isinstance(value, list) else "is not a mapping"
        return f"{what}; write key: value pairs, e.g. {{key: value}}"
    if kind == "list_type":
        return ("is a mapping, not a list" if isinstance(value, dict) else "is not a list") + "; write [...], or a line with '- ' for each"
    if kind == "string_type":
        return f"is not a name; write a word, or quote it: '{value}'" if isinstance(value, int | float) else "is not a name; write a word"
    if kind in ("float_type", "float_parsing"):
        return "is not a number; write one, e.g. 1.5"
    if kind == "finite_number":
        return "is not a finite number"
    if kind == "string_too_short":
        return "is an empty name"
    if kind == "less_than":
        return "is too large"
    return f"is not right: {message}"
