"""Where the time goes: the torch profiler's operators of one step, in a pass of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from refta_profiler.measure.memory import _silent


def top_operators(step: Callable[[], None], *, count: int = 15) -> list[dict[str, Any]]:
    """The operators that took most time of their own in one step: name, calls, seconds."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _silent(), profile(activities=activities) as profiler:
        step()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    found = sorted(profiler.key_averages(), key=lambda one: -getattr(one, key))[:count]
    return [{"operator": one.key, "calls": one.count, "seconds": getattr(one, key) / 1e6} for one in found]
