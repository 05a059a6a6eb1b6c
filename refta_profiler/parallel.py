"""How a step is spread over ranks, as data: DDP or FSDP2 over so many of them. No torch.

As text it is '' for one process, 'ddp:2', 'ddp:2:view' (gradients are views of the buckets) or 'fsdp:2'. Of a point everything is one
rank's: batch, tokens, FLOPs, seconds and bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from refta_profiler.errors import ScenarioError
from refta_profiler.suggest import closest

KINDS = ("ddp", "fsdp")
NONE = "none"
FORM = "write {kind: ddp, world: 2}, ddp:2, fsdp:2, or none for one process"
KEYS = ("kind", "world", "gradient_as_bucket_view")
TITLES = {"ddp": "DDP", "fsdp": "FSDP2"}


@dataclass(frozen=True)
class Parallel:
    """So many ranks of that kind. gradient_as_bucket_view: DDP's option of that name, without which gradients are there twice."""

    kind: str
    world: int
    gradient_as_bucket_view: bool = False

    @property
    def text(self) -> str:
        """'ddp:2', 'ddp:2:view', 'fsdp:4'."""
        return f"{self.kind}:{self.world}{':view' if self.gradient_as_bucket_view else ''}"


def read(text: str) -> Parallel | None:
    """What the text of a point or row means; None for '', one process."""
    if not text:
        return None
    kind, world, *view = text.split(":")
    return Parallel(kind, int(world), bool(view))


def world(text: str) -> int:
    """How many ranks the text of a point or row means; 1 for one process."""
    found = read(text)
    return found.world if found else 1


def is_sharded(text: str) -> bool:
    """Whether a rank has no more than its shard of the model when a step starts."""
    found = read(text)
    return found is not None and found.kind == "fsdp"


def checked(value: Any) -> str:
    """The text of a scenario's entry; a ScenarioError says what is wrong with it and what would be right."""
    if value is None or value == NONE:
        return ""
    if isinstance(value, str):
        value = _spelled_out(value)
    if not isinstance(value, dict):
        raise ScenarioError(f"{value!r} says no parallelism; {FORM}")
    unknown = next((key for key in value if key not in KEYS), None)
    if unknown is not None:
        raise ScenarioError(f"unknown key {unknown!r}; {_meant(str(unknown), KEYS)}there is {', '.join(KEYS)}")
    return Parallel(_kind(value), _world(value), _view(value)).text


def _spelled_out(text: str) -> dict[str, Any]:
    """{kind, world, …} of 'ddp:2' or 'ddp:2:view'."""
    kind, *rest = text.split(":")
    number = re.fullmatch(r"-?\d+", rest[0]) if rest else None
    if len(rest) > 2 or rest[1:] not in ([], ["view"]) or (rest and not number):
        raise ScenarioError(f"{text!r} says no parallelism; {FORM}")
    return {"kind": kind, **({"world": int(rest[0])} if rest else {}), **({"gradient_as_bucket_view": True} if rest[1:] else {})}


def _kind(value: dict[str, Any]) -> str:
    kind = value.get("kind")
    if kind not in KINDS:
        said = "kind is missing" if kind is None else f"unknown kind {kind!r}"
        raise ScenarioError(f"{said}; {_meant(str(kind), KINDS)}there is {' and '.join(KINDS)}, and none for one process")
    return kind


def _world(value: dict[str, Any]) -> int:
    if "world" not in value:
        raise ScenarioError(f"world is missing: how many ranks? {FORM}")
    world = value["world"]
    if isinstance(world, bool) or not isinstance(world, int) or world < 1:
        raise ScenarioError(f"world: {world!r}; it is the number of ranks, a whole number of at least 1")
    return world


def _view(value: dict[str, Any]) -> bool:
    view = value.get("gradient_as_bucket_view", False)
    if not isinstance(view, bool):
        raise ScenarioError(f"gradient_as_bucket_view: {view!r}; it is true or false")
    if view and value["kind"] != "ddp":
        raise ScenarioError("gradient_as_bucket_view is an option of ddp; leave it out")
    return view


def _meant(given: str, known: tuple[str, ...]) -> str:
    found = closest(given, list(known))
    return f"did you mean '{found}'? " if found else ""


def words(text: str) -> str:
    """'DDP over 2 ranks', '' for one process."""
    found = read(text)
    if found is None:
        return ""
    view = ", gradients as bucket views" if found.gradient_as_bucket_view else ""
    return f"{TITLES[found.kind]} over {found.world} rank{'s' if found.world > 1 else ''}{view}"


def suffix(text: str) -> str:
    """'-ddp2', what the id of a point ends with before its hash; '' for one process."""
    return f"-{text.replace(':', '', 1).replace(':', '-')}" if text else ""
