"""What there is: methods, models, devices, metrics, settings of a scenario. `list methods refta` shows the settings of one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from refta import registry
from refta_profiler.commands.answer import Answer, table
from refta_profiler.commands.options import JsonOption
from refta_profiler.errors import ScenarioError

WHAT = ("methods", "models", "devices", "metrics", "settings")


def command(
    what: Annotated[str, typer.Argument(metavar="|".join(WHAT))],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one method, with its settings")] = None,
    json_: JsonOption = False,
) -> Answer:
    """What there is of a kind, or of one method."""
    if what not in WHAT:
        raise ScenarioError(f"list {what}: it must be one of {', '.join(WHAT)}")
    if name is not None and what != "methods":
        raise ScenarioError(f"list {what} {name}: a name goes with methods alone, e.g. list methods refta")
    if name is not None:
        return one_method(name)
    return settings() if what == "settings" else named(listed(what))


def named(found: Sequence[tuple[str, str]]) -> Answer:
    """Names and what each is."""
    data = [{"name": name, "what": words} for name, words in found]
    return Answer(data, table([("name", "what it is"), *found]))


def listed(what: str) -> list[tuple[str, str]]:
    """Every name of a kind and what it is."""
    if what == "methods":
        return [(name, method_line(name)) for name in registry.names()]
    if what == "models":
        from refta_profiler import models

        return [(name, f"{entry.get('model_type', '')}  {entry.get('source', '')}") for name, entry in models.presets().items()]
    if what == "devices":
        from refta_profiler import devices
        from refta_profiler.units import format_bytes

        found = [devices.get(name) for name in devices.names()]
        return [(one.name, f"{one.title}, {format_bytes(one.memory_bytes)}" if one.memory_bytes else one.title) for one in found]
    from refta_profiler.results import METRICS

    return [(name, f"{metric.description} ({metric.unit}; {', '.join(metric.sources)})") for name, metric in METRICS.items()]


def method_line(name: str) -> str:
    """A method's summary and its orders."""
    orders = registry.orders(name)
    return f"{registry.summary(name)}{'; orders ' + ', '.join(orders) if orders else ''}"


def one_method(name: str) -> Answer:
    """A method's summary, orders and settings."""
    from refta_profiler import reference

    found = reference.method(name)
    lines = [f"{name}: {registry.summary(name)}"]
    if orders := registry.orders(name):
        lines.append(f"orders: {', '.join(orders)} (the first by default)")
    if not found:
        lines.append("It takes no settings.")
    else:
        lines += ["", table([("setting", "takes", "default"), *((one.key, one.takes, one.default) for one in found)])]
        lines += ["", words] if (words := reference.about(name)) else []
    entries = [{name: value for name, value in asdict(one).items() if name != "meaning"} for one in found]
    return Answer(entries, "\n".join(lines))


def settings() -> Answer:
    """Every setting of a scenario."""
    from refta_profiler import reference

    found = reference.scenario()
    rows = [(one.key, one.usual, one.takes) for one in found]
    lines = [table([("setting", "default", "takes"), *rows])]
    return Answer([asdict(one) for one in found], "\n".join([*lines, "", "What each is for: docs/scenario.md, or --json."]))
