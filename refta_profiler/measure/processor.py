"""The processor as it was found: its model, clock and governor, and how much of it this process may use (Linux says more than others)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INFO = Path("/proc/cpuinfo")
FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def model() -> str:
    """What the processor calls itself."""
    return _line("model name") or platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """{model, cores, affinity, quota_cores, mhz, governor, load_average}; None for what the system does not say.

    affinity: the cores that this process may run on, as taskset writes them ("0-3,8").
    quota_cores: how many cores' time its cgroup gives it, None without a limit.
    mhz: of the first core, at this moment.
    """
    return {
        "model": model(),
        "cores": os.cpu_count(),
        "affinity": ranges(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "quota_cores": quota_cores(),
        "mhz": _number(_line("cpu MHz")),
        "governor": _text(FREQUENCY / "scaling_governor"),
        "load_average": list(os.getloadavg()),
    }


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers with runs of them drawn together: ranges([0, 1, 2, 5]) is "0-2,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def quota_cores() -> float | None:
    """The cores' time that the cgroup gives: 150,000 µs in every 100,000 are 1.5 cores. The least of it and those above (cgroups(7))."""
    if (lines := _text(OWN_CGROUP)) is None:
        return None
    paths = dict(line.split(":", 2)[1:] for line in lines.splitlines() if line.count(":") >= 2)
    new = [_share(*text.split()) for folder in _above(CGROUPS, paths.get("", "/")) if (text := _text(folder / "cpu.max"))]
    name = next((one for one in paths if "cpu" in one.split(",")), "")
    old = [
        _share(quota, period)
        for folder in (_above(CGROUPS / "cpu", paths[name]) if name else [])
        if (quota := _text(folder / "cpu.cfs_quota_us")) and (period := _text(folder / "cpu.cfs_period_us"))
    ]
    return min((one for one in [*new, *old] if one is not None), default=None)


def _above(root: Path, path: str) -> list[Path]:
    """The folder of a cgroup and all above it, as far as they are seen here: a container sees its own as the root."""
    folder = root / path.strip("/")
    return [one for one in (folder, *folder.parents) if one.is_relative_to(root)]


def _share(quota: str, period: str) -> float | None:
    """Cores of a quota; None for 'max' and -1, which are no limit."""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _line(name: str) -> str | None:
    """The value of the first line of that name in /proc/cpuinfo."""
    lines = (_text(INFO) or "").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.partition(":")[0].strip() == name), None)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
