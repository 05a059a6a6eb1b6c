"""The time of each module in one profiled step: forward, again where checkpointing recomputes it, and backward.

A backward node belongs to the module whose forward made it: torch gives both events one sequence number. Every thread counts for itself,
and on CUDA a backward has its own, where checkpointing runs forwards again: a node says which thread's number its is
(torch/autograd/profiler_util.py, _set_backward_stacktraces).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from refta_profiler.measure.modules import MODULE, pattern

NODE = "autograd::engine::evaluate_function: "  # and its name: the profiler's event around a backward node
PARTS = ("forward", "recompute", "backward")
Path = tuple[str, ...]  # the modules around an event, the innermost last


@dataclass
class _Spent:
    """Seconds by part, of a module with all that it calls and of its own."""

    calls: int = 0
    members: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    own: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))


def of(events: Iterable[Any], *, time: Callable[[Any], float]) -> dict[str, Any]:
    """{rows, unattributed_seconds} of a profiler's events; time gives an event's seconds with all within it.

    rows, over modules whose names differ in numbers alone, most own time first: [{module, modules, calls, forward_seconds,
    recompute_seconds, backward_seconds, own_seconds}]. Own time is without the modules that it calls. unattributed_seconds are those of
    backward nodes that no module made: gradients added to parameters, the loss.
    """
    found: dict[str, _Spent] = {}
    makers: dict[tuple[int, int], Path] = {}  # by sequence number and the thread that gave it
    nodes: list[tuple[Any, float]] = []
    for event, path, in_node in _walk([one for one in events if one.cpu_parent is None]):
        if event.name.startswith(MODULE):
            _add(found, path, "recompute" if in_node else "forward", time(event) - _within(event, time))
            _called(found, path, in_node=in_node)
        elif event.name.startswith(NODE):
            nodes.append((event, time(event) - _within(event, time)))
        elif path and event.sequence_nr >= 0:
            makers[event.sequence_nr, event.thread] = path
    unattributed = 0.0
    for event, seconds in nodes:
        path = makers.get((event.sequence_nr, event.fwd_thread))
        if path is None:
            unattributed += seconds
        else:
            _add(found, path, "backward", seconds)
    return {"rows": _table(found), "unattributed_seconds": unattributed}


def _walk(roots: Iterable[Any]) -> Iterator[tuple[Any, Path, bool]]:
    """Every event with the modules around it (its own last, where it is one's), and whether it is within a backward node.

    A module that checkpointing runs again has the modules around it that it had in forward.
    """
    known: dict[str, Path] = {}
    waiting: list[tuple[Any, Path, bool]] = [(event, (), False) for event in reversed(list(roots))]
    while waiting:
        event, path, in_node = waiting.pop()
        if event.name.startswith(MODULE):
            name = event.name.removeprefix(MODULE)
            path = (*path, name) if path else known.get(name, (name,))
            known.setdefault(name, path)
        yield event, path, in_node
        within = in_node or event.name.startswith(NODE)
        waiting += [(child, path, within) for child in reversed(event.cpu_children)]


def _within(event: Any, time: Callable[[Any], float]) -> float:
    """Seconds of the modules directly within an event."""
    total, waiting = 0.0, list(event.cpu_children)
    while waiting:
        child = waiting.pop()
        if child.name.startswith(MODULE):
            total += time(child)
        else:
            waiting += child.cpu_children
    return total


def _add(found: dict[str, _Spent], path: Path, part: str, seconds: float) -> None:
    """Own time of the innermost module, which the modules around it have too."""
    for name in dict.fromkeys(pattern(one) for one in path):
        found.setdefault(name, _Spent()).seconds[part] += seconds
    found[pattern(path[-1])].own[part] += seconds


def _called(found: dict[str, _Spent], path: Path, *, in_node: bool) -> None:
    spent = found[pattern(path[-1])]
    spent.members.add(path[-1])
    spent.calls += 0 if in_node else 1


def _table(found: dict[str, _Spent]) -> list[dict[str, Any]]:
    rows = [
        {
            "module": name,
            "modules": len(spent.members),
            "calls": spent.calls,
            **{f"{part}_seconds": spent.seconds[part] for part in PARTS},
            "own_seconds": sum(spent.own.values()),
        }
        for name, spent in found.items()
    ]
    return sorted(rows, key=lambda row: -row["own_seconds"])
