"""Accelerators that predictions can be made for: devices.yaml as checked values. No torch, but to ask what a GPU calls itself."""

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from refta_profiler.errors import ScenarioError
from refta_profiler.suggest import closest

DATA = Path(__file__).with_name("devices.yaml")
# Words by which a name tells another card, or a part of one, from the card whose number it bears; no entry of devices.yaml has them
OTHER_CARDS = {"laptop", "mobile", "max", "ti", "super", "d", "nvl", "mig"}

UNCOUNTED = "a CUDA context not counted since its size there is not known"  # what is said of a memory that is less than it seems


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
    multiprocessors: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def tensor_bytes(self) -> int | None:
        """What is left for tensors: its memory less the CUDA context where that is known; None where its memory is not known."""
        return None if self.memory_bytes is None else self.memory_bytes - (self.context_bytes or 0)


def names() -> list[str]:
    """The devices by their own names, in the order of devices.yaml (aliases are left out)."""
    return list(_devices())


def spellings() -> list[str]:
    """The devices by every name that `get` takes in lower case: their own names, then their aliases."""
    return [*_devices(), *(alias for device in _devices().values() for alias in device.aliases)]


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


def device_key(device: str) -> str:
    """The name in devices.yaml of the device that measures ('cpu', 'cuda', 'cuda:1'); a GPU that is not there goes by its own name."""
    if device == "cpu":
        return "cpu"
    import torch

    return named_device(torch.cuda.get_device_name(device))


def named_device(name: str) -> str:
    """The key of the GPU that calls itself that: "NVIDIA A100-SXM4-80GB" is a100-80; in lower case where none is known by it.

    Every part of the key is a word of the name (80 is 80GB, rtx4090 is RTX 4090); of several keys the one with most parts. A name with a
    word of another card (RTX 4090 Laptop GPU, H100 NVL) is none of them.
    """
    words = re.findall("[a-z0-9]+", name.lower())
    if OTHER_CARDS.intersection(words):
        return name.lower()
    said = {*words, *(word.removesuffix("gb") for word in words), *(one + two for one, two in pairwise(words))}
    known = sorted(names(), key=lambda key: -len(key.split("-")))
    return next((key for key in known if said.issuperset(key.split("-"))), name.lower())


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
        multiprocessors=entry["multiprocessors"],
        aliases=tuple(str(alias) for alias in entry.get("aliases", ())),
    )
