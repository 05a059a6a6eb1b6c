"""Accelerators that predictions can be made for: devices.yaml as checked values. No torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from refta_profiler.errors import ScenarioError
from refta_profiler.suggest import closest

DATA = Path(__file__).with_name("devices.yaml")


@dataclass(frozen=True)
class Device:
    """One accelerator; a number is None where it is unknown or the card has no such units."""

    name: str
    title: str
    kind: str  # "cuda" or "cpu"
    memory_bytes: int | None  # what torch can hand out in all, the CUDA context included
    bandwidth_bytes_per_second: float | None
    peak_flops: dict[str, float | None]  # FLOP/s, dense, by "fp32", "tf32", "fp16", "bf16"
    compute_capability: tuple[int, int] | None
    context_bytes: int | None  # beside the allocator; None: not measured
    source: str
    aliases: tuple[str, ...] = ()

    @property
    def tensor_bytes(self) -> int | None:
        """What is left for tensors: its memory less the CUDA context; None where its memory is not known."""
        return None if self.memory_bytes is None else self.memory_bytes - (self.context_bytes or 0)


def names() -> list[str]:
    """The devices by their own names, in the order of devices.yaml (aliases are left out)."""
    return list(_devices())


def get(name: str) -> Device:
    """The device of that name or alias (upper or lower case); ScenarioError with the closest name where there is none."""
    known = _devices()
    by_name = known | {alias: device for device in known.values() for alias in device.aliases}
    key = str(name).lower()
    if key not in by_name:
        found = closest(name, by_name)
        hint = f"did you mean '{found}'? " if found else ""
        raise ScenarioError(f"unknown device '{name}'; {hint}(devices: {', '.join(known)})")
    return by_name[key]


@cache
def _devices() -> dict[str, Device]:
    """Every entry of devices.yaml by name."""
    return {str(name): _device(str(name), entry) for name, entry in yaml.safe_load(DATA.read_text(encoding="utf-8")).items()}


def _device(name: str, entry: dict[str, Any]) -> Device:
    """The Device of one entry of devices.yaml."""
    capability = entry["compute_capability"]
    return Device(
        name=name,
        title=entry["title"],
        kind=entry["kind"],
        memory_bytes=entry["memory_bytes"],
        bandwidth_bytes_per_second=entry["bandwidth_bytes_per_second"],
        peak_flops=dict(entry["peak_flops"]),
        compute_capability=tuple(capability) if capability else None,
        context_bytes=entry["context_bytes"],
        source=entry["source"],
        aliases=tuple(str(alias) for alias in entry.get("aliases", ())),
    )
