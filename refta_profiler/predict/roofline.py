"""The time of a step from its traced operations: each takes what its FLOPs, its bytes or its launch ask for, whichever is most.

The roofline model of Williams, Waterman and Patterson (2009), with a floor for launches and what a GPU's tiles leave idle (waves.py). A GPU
runs behind the host that issues its work: it has done a phase once it has done all before it and the host has issued the last of it, so a
host that is ahead after backward has its optimizer's work issued in time that the GPU still computes. A CPU issues and computes in turn:
the two add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refta_profiler.predict.storage import FULLY, ON_THE_HOST, Operation
from refta_profiler.rates import Rates, rate
from refta_profiler.waves import filled

BOUNDS = ("compute", "bandwidth", "launch")
SHOWN = 12  # of the operations that take longest


@dataclass(frozen=True)
class Share:
    """What all operations of one name and phase take, and what bounds most of it."""

    name: str
    phase: str
    count: int
    seconds: float
    bound: str


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step by phase and by what bounds them (both sum to the step), and its longest operations."""

    by_phase: dict[str, float]
    by_bound: dict[str, float]
    longest: list[Share]
    note: str
    odd_seconds: float = 0.0  # by which it would be shorter if no product that is as wide as the rank were read number by number

    @property
    def seconds(self) -> float:
        """The whole step."""
        return sum(self.by_phase.values())


class RateMissingError(Exception):
    """A dtype's matrix products have no rate on this device."""


def estimate(operations: Sequence[Operation], rates: Rates) -> Estimate:
    """The step's time; RateMissingError where a dtype has no rate.

    One product of 2e9 FLOPs at 1e12 FLOP/s that moves 1e6 bytes at 1e11 bytes/s takes 2 ms, compute-bound, on a device that overlaps.
    """
    rates = replace(rates, matmul_flops=rates.full_waves, calibrated=False)
    by_phase: dict[str, float] = {}
    by_bound: dict[str, float] = dict.fromkeys(BOUNDS, 0.0)
    shares: dict[tuple[str, str], dict[str, float]] = {}
    counts: dict[tuple[str, str], int] = {}
    issued = done = 0.0  # when the host has issued, and the device done, all of the phases so far
    for phase in dict.fromkeys(one.phase for one in operations):
        inside = [one for one in operations if one.phase == phase]
        host = sum(rates.host_seconds.get(phase, 0.0) if one.nbytes else rates.view_seconds for one in inside)
        bounds: dict[str, float] = dict.fromkeys(BOUNDS, 0.0)
        for one in inside:
            seconds, bound = _device(one, rates)
            bounds[bound] += seconds
            key = one.name, one.phase
            shares.setdefault(key, dict.fromkeys(BOUNDS, 0.0))[bound] += seconds
            counts[key] = counts.get(key, 0) + 1
        issued += host
        waiting = max(issued - done - sum(bounds.values()), 0.0) if rates.overlaps else host
        bounds["launch"] += waiting
        done += sum(bounds.values())
        by_phase[phase] = sum(bounds.values())
        by_bound = {name: by_bound[name] + bounds[name] for name in BOUNDS}
    longest = [
        Share(name, phase, counts[name, phase], sum(found.values()), max(found, key=lambda bound: found[bound]))
        for (name, phase), found in shares.items()
    ]
    longest.sort(key=lambda one: -one.seconds)
    return Estimate(by_phase, by_bound, longest[:SHOWN], rates.note)


def _device(one: Operation, rates: Rates) -> tuple[float, str]:
    """Seconds on the device, and what bounds them."""
    shares = one.reached if rates.overlaps else FULLY  # of a GPU's kernels
    if shares == ON_THE_HOST or (not one.flops and not one.nbytes):
        return 0.0, "launch"
    if one.flops and one.dtype not in rates.matmul_flops:
        raise RateMissingError(one.dtype)
    reached = filled(one.product, one.flops, one.dtype, rates.multiprocessors)
    compute = one.flops / (rate(rates.matmul_flops[one.dtype], one.flops) * reached * shares[0]) if one.flops else 0.0
    moved = one.nbytes / (rates.bandwidth * shares[1])
    longest = max(compute, moved, rates.kernel_seconds)
    return longest, "compute" if longest == compute else "bandwidth" if longest == moved else "launch"
