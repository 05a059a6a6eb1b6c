"""A scenario's `methods`, multiplied out: every entry's lists of settings become variants, each with a label of its own. No torch.

An entry is `{name: refta, label: ours, rank: [4, 8], order: [shared, slices]}`: name, label, order, and the settings of that method.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from refta import registry
from refta.errors import SettingError
from refta_profiler import own_code
from refta_profiler.scenario_messages import Fault, shown
from refta_profiler.suggest import closest

SHORT = {"rank": "r"}  # how a setting is called in a label


@dataclass(frozen=True)
class Variant:
    """One method with one value for each of its settings."""

    entry: int  # which of the scenario's methods it is from
    method: str
    label: str
    settings: dict[str, Any]
    order: str | None  # None where the method has none

    @property
    def named(self) -> dict[str, Any]:
        """The settings by the names that labels show."""
        return own_code.named(self.settings) if self.method == own_code.NAME else self.settings

    @property
    def rank(self) -> int | None:
        """The method's rank, None where it has none."""
        rank = self.named.get("rank")
        return rank if isinstance(rank, int) and not isinstance(rank, bool) else None


def expand(entries: Sequence[Any]) -> tuple[list[Variant], list[Fault]]:
    """The variants of all entries, and what is wrong with the entries that give none."""
    variants: list[Variant] = []
    found: list[Fault] = []
    for number, entry in enumerate(entries):
        mistakes = _entry_faults(("methods", number), entry)
        if not mistakes:
            own, mistakes = _variants(number, entry)
            variants += own
        found += mistakes
    found += _twice(variants)
    return (variants, found) if found else _with_own_labels(variants, entries)


def _entry_faults(place: tuple[str | int, ...], entry: Any) -> list[Fault]:
    """What is wrong with an entry's keys, before any value is looked at."""
    names = _names()
    if not isinstance(entry, dict):
        hint = f"write {{name: {entry}}}" if entry in registry.names() else "write e.g. {name: refta, rank: 15}"
        hint = f"write {{name: {entry}, {own_code.EXAMPLE}}}" if entry == own_code.NAME else hint
        return [Fault(place, f"{shown(entry)} is not a mapping; {hint}")]
    name = entry.get("name")
    if name is None:
        return [Fault(place, f"'name' is missing; there is {', '.join(names)}")]
    if name not in names:
        return [Fault((*place, "name"), f"unknown method {shown(name)}; {_hint(name, names)}")]
    found = [Fault(place, text, key) for key, text in _unknown_keys(str(name), entry)]
    found += own_code.form_faults(place, entry) if name == own_code.NAME else []
    if "label" in entry and not (isinstance(entry["label"], str) and entry["label"].strip()):
        found.append(Fault((*place, "label"), f"{shown(entry['label'])} is not a name; write a word, in quotes if it looks like a number"))
    found += [Fault((*place, key), "is an empty list; give at least one") for key, value in entry.items() if value == []]
    return found


def _names() -> list[str]:
    """What an entry may be of: the methods that there are, and the user's own."""
    return [*registry.names(), own_code.NAME]


def _hint(word: Any, names: Sequence[str]) -> str:
    """The name that was meant, where one is close, and all names."""
    found = closest(word, names)
    return (f"did you mean '{found}'? " if found else "") + f"there are {', '.join(names)}"


def _unknown_keys(name: str, entry: dict[Any, Any]) -> Iterator[tuple[Any, str]]:
    """The keys that the method does not take, and what to say of each."""
    known = list(own_code.KEYS) if name == own_code.NAME else _known_keys(name)
    for key in entry:
        if key in known:
            continue
        if key == "order":
            yield key, f"{name} has no orders; leave 'order' out"
        elif found := closest(key, known):
            yield key, f"unknown key {shown(key)}; did you mean '{found}'?"
        elif name == own_code.NAME:
            yield key, f"unknown key {shown(key)}; what the function takes is written as arguments: {{{key}: {shown(entry[key])}}}"
        else:
            yield key, f"unknown key {shown(key)}; {name} takes {', '.join(known)}"


def _known_keys(name: str) -> list[str]:
    """The keys that an entry of a method may have."""
    settings = [key for key in registry.setting_names(name) if key != "order"]
    return [*settings, *(["order"] if registry.orders(name) else []), "label", "name"]


def _variants(number: int, entry: dict[str, Any]) -> tuple[list[Variant], list[Fault]]:
    """The variants of one entry, labelled by its label or its method's name, and what is wrong with its values."""
    name, label = entry["name"], entry.get("label")
    if name == own_code.NAME:
        own = own_code.settings(entry)
        return [Variant(number, name, label or own_code.default_label(own), own, None)], []
    orders = _choices(name, "order", entry.get("order"))
    found: list[Fault] = [Fault(("methods", number, "order"), fault) for order in orders if (fault := _order_fault(name, order))]
    keys = [key for key in entry if key not in ("name", "label", "order")]
    variants: list[Variant] = []
    for values in product(*(_choices(name, key, entry[key]) for key in keys)):
        try:
            settings = registry.check_settings(name, dict(zip(keys, values, strict=True)))
        except SettingError as error:
            found += [Fault(("methods", number), line) for line in str(error).splitlines()]
            continue
        default = settings.pop("order", None) or next(iter(registry.orders(name)), None)
        variants += [Variant(number, name, label or name, settings, order or default) for order in orders]
    return variants, list(dict.fromkeys(found))


def _choices(name: str, key: str, value: Any) -> list[Any]:
    """The values that a setting multiplies out to: a list's members, but a list that is one value by nature stays whole."""
    if not isinstance(value, list):
        return [value]
    if key in registry.list_settings(name):
        return value if all(isinstance(member, list) for member in value) else [value]
    return value


def _order_fault(name: str, order: Any) -> str | None:
    """What is wrong with an order; None where nothing is or none is asked for."""
    orders = registry.orders(name)
    if order is None or order in orders:
        return None
    return f"unknown order {shown(order)} of {name}; {_hint(order, orders)}"


def _twice(variants: Sequence[Variant]) -> list[Fault]:
    """The variants that are there already, entry by entry."""
    first: dict[str, int] = {}
    found: list[Fault] = []
    for variant in variants:
        key = repr((variant.method, variant.order, sorted(variant.settings.items())))
        if key in first:
            where = "in this entry" if first[key] == variant.entry else f"in methods[{first[key]}]"
            found.append(Fault(("methods", variant.entry), f"the same point is {where} already: {_described(variant)}"))
        first.setdefault(key, variant.entry)
    return list(dict.fromkeys(found))


def _described(variant: Variant) -> str:
    """A variant in words."""
    order = f" order={variant.order}" if variant.order else ""
    return variant.method + order + "".join(f" {key}={value}" for key, value in variant.settings.items())


# ---- labels


def _with_own_labels(variants: list[Variant], entries: Sequence[dict[str, Any]]) -> tuple[list[Variant], list[Fault]]:
    """The variants with labels that differ: the order is added where an entry has several or no label, then the settings that differ.

    Settings are told apart over all orders, so that labels that differ in their order alone are one function: evidence.stem.
    """
    found = _same_labels(entries)
    ordered = [_with_order(variant, variants, entries) for variant in variants]
    labelled = []
    for variant, label in zip(variants, ordered, strict=True):
        pairs = zip(variants, ordered, strict=True)
        alike = [other for other, its in pairs if its == label or (other.method, other.label) == (variant.method, variant.label)]
        labelled.append(replace(variant, label=" ".join([label, *_differing(variant, alike)])))
    return labelled, found or _alike(labelled)


def _with_order(variant: Variant, variants: Sequence[Variant], entries: Sequence[dict[str, Any]]) -> str:
    """The label with the order after a slash, where the entry has no label of its own or several orders."""
    orders = {other.order for other in variants if other.entry == variant.entry}
    bare = variant.order is None or ("label" in entries[variant.entry] and len(orders) == 1)
    return variant.label if bare else f"{variant.label}/{variant.order}"


def _differing(variant: Variant, alike: Sequence[Variant]) -> list[str]:
    """The settings in which variants of one label differ, as key=value."""
    own = variant.named
    keys = [key for key in own if any(other.named.get(key) != own[key] for other in alike)]
    return [f"{SHORT.get(key, key)}={_value(own[key])}" for key in keys]


def _value(value: Any) -> str:
    """A setting's value as a label shows it."""
    return "·".join(str(member) for member in value) if isinstance(value, list | tuple) else str(value)


def _alike(labelled: Sequence[Variant]) -> list[Fault]:
    """The variants whose label another entry's has in the end, however it came about."""
    first: dict[str, int] = {}
    found = []
    for variant in labelled:
        if first.setdefault(variant.label, variant.entry) != variant.entry:
            text = f"its label '{variant.label}' is that of methods[{first[variant.label]}] too; give it a label of its own"
            found.append(Fault(("methods", variant.entry), text))
    return found


def _same_labels(entries: Sequence[dict[str, Any]]) -> list[Fault]:
    """The entries that bear another's label: results are told apart by it."""
    first: dict[str, int] = {}
    found: list[Fault] = []
    for number, entry in enumerate(entries):
        label = entry.get("label")
        if label in first:
            found.append(Fault(("methods", number, "label"), f"'{label}' is the label of methods[{first[label]}] already; give another"))
        elif label is not None:
            first[label] = number
    return found
