"""What else the machine did while something was timed: the cores' time that other processes took, steal, the load average (Linux)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHORTEST = 0.05  # seconds; the kernel counts in hundredths, so that less says nothing
BUSY = 0.10  # of the cores, taken by others: from here on the machine is called busy
BURST = 0.30  # likewise, within a single step; less than that may be the rounding of the counters in the shortest
STOLEN = 0.02  # of the cores' time, by the hypervisor


@dataclass(frozen=True)
class Load:
    """Shares of all cores' time between two moments, and the load average at the later; None where the system does not say."""

    others_fraction: float | None
    steal_fraction: float | None
    load_average: float | None


@dataclass(frozen=True)
class Moment:
    """Counters at one time, in seconds: of all cores together, busy and stolen, and of this process and its children."""

    clock: float
    busy: float | None
    stolen: float | None
    own: float


def now() -> Moment:
    """The counters as they stand (about 50 µs, and 20 µs a child)."""
    busy, stolen = counters()
    children = of_children()  # those that have ended are in this process's own times from here on
    return Moment(time.monotonic(), busy, stolen, sum(os.times()[:4]) + children)


def of_children() -> float:
    """Seconds of processor time that the live children of multiprocessing took, such as a DataLoader's workers; 0.0 where none are known.

    Nothing that goes wrong here may end the loop that is measured.
    """
    spent = 0
    with contextlib.suppress(Exception):
        for one in multiprocessing.active_children():
            with contextlib.suppress(OSError, ValueError):  # it has just ended, or the system has no /proc
                told = Path(f"/proc/{one.pid}/stat").read_text(encoding="utf-8", errors="replace")
                spent += sum(map(int, told.rpartition(")")[2].split()[11:15]))  # proc(5): utime, stime, cutime, cstime
    return spent / os.sysconf("SC_CLK_TCK") if spent else 0.0


def counters() -> tuple[float | None, float | None]:
    """Seconds that all cores together were busy, and that the hypervisor stole, since the machine started (proc(5), /proc/stat)."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9])
    except (OSError, ValueError):
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def between(first: Moment, second: Moment) -> Load:
    """The load between two moments; fractions are None for less than 0.05 s, where the counters are too coarse."""
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    room = (second.clock - first.clock) * (os.cpu_count() or 1)
    if first.busy is None or second.busy is None or first.stolen is None or second.stolen is None or second.clock - first.clock < SHORTEST:
        return Load(None, None, average)
    others = (second.busy - first.busy) - (second.own - first.own)
    return Load(min(max(others / room, 0.0), 1.0), (second.stolen - first.stolen) / room, average)


def bursts(found: Sequence[Load]) -> str:
    """How many of the steps other processes took much of the cores in, which a mean over all does not show; '' where none."""
    hit = [one for one in found if one.others_fraction is not None and one.others_fraction > BURST]
    return (
        f"the machine was busy at times: other processes took over {BURST:.0%} of its cores in {len(hit)} of {len(found)} steps"
        if hit
        else ""
    )


def complaint(found: Load) -> str:
    """That the machine was busy, in words that stand in a row's note; '' where it was not."""
    parts = []
    if found.others_fraction is not None and found.others_fraction > BUSY:
        parts.append(f"other processes took {found.others_fraction:.0%} of its cores")
    if found.steal_fraction is not None and found.steal_fraction > STOLEN:
        parts.append(f"its host took {found.steal_fraction:.0%} (steal)")
    return f"the machine was busy: {' and '.join(parts)}" if parts else ""
