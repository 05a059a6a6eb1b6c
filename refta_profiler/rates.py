"""How fast a device runs what a step is made of: measured by `calibrate`, or estimated from its datasheet. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from refta_profiler import cache, devices
from refta_profiler.errors import ScenarioError
from refta_profiler.waves import filled, square
from refta_profiler.whole_files import write_whole

DATASHEET_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# What is taken of a datasheet's peaks where nothing was measured. Large matrix products reach 60% to 80% of the dense peak and copies
# 80% to 90% of the bandwidth on V100 to H100; no kernel takes under some 2 µs. What eager PyTorch takes to issue an operation, and a view,
# is what `calibrate` found on the host of an H100 (2026, torch 2.11).
MATMUL_SHARE, BANDWIDTH_SHARE = 0.7, 0.85
FULL_WAVES_SHARE = {"float32": 0.73}  # of dtypes whose tiles are known: what the multiprocessors reach that are not left idle
KERNEL_SECONDS = 2e-6
HOST_SECONDS = {"forward": 8.5e-6, "backward": 14e-6, "optimizer": 7e-6}
VIEW_SECONDS = 1.1e-6
ESTIMATED = (
    "roofline from datasheet peaks (70% of the FLOP/s, in float32 73% less what tiles leave idle; 85% of the bandwidth), "
    "not calibrated on the device"
)


@dataclass(frozen=True)
class Rates:
    """What a device reaches.

    matmul_flops: FLOP/s of matrix products by dtype (float32, bfloat16, …), as (FLOPs of one product, FLOP/s) from small to large ones, of
    which the small reach less. bandwidth: bytes/s read and written.
    kernel_seconds: the least an operation takes on the device. host_seconds: what issuing one takes, by phase, and view_seconds a view;
    where the host computes itself (`overlaps` is False) the two come one after the other. note: where the numbers are from.
    """

    matmul_flops: dict[str, list[tuple[float, float]]]
    bandwidth: float
    kernel_seconds: float
    host_seconds: dict[str, float]
    view_seconds: float
    overlaps: bool
    note: str
    calibrated: bool = False
    measured_on: dict[str, Any] = field(default_factory=dict)
    multiprocessors: int | None = None  # of a GPU, to which products are handed out tile by tile; None: nothing is known of that

    @property
    def full_waves(self) -> dict[str, list[tuple[float, float]]]:
        """`matmul_flops` as it would be if no multiprocessor were idle: with what the squares left idle that were timed, if they were."""
        if not self.calibrated:
            return self.matmul_flops
        return {
            dtype: [(flops, reached / filled(square(flops), flops, dtype, self.multiprocessors)) for flops, reached in points]
            for dtype, points in self.matmul_flops.items()
        }


def rate(points: list[tuple[float, float]], flops: float) -> float:
    """FLOP/s of a product of that many FLOPs, on the straight line between measured ones over the logarithm of their FLOPs.

    Below the smallest and above the largest it is theirs: between 1e10 at 1e6 FLOPs and 3e10 at 1e8, a product of 1e7 FLOPs runs at 2e10.
    """
    below = [one for one in points if one[0] <= flops] or points[:1]
    above = [one for one in points if one[0] > flops] or points[-1:]
    (low, slow), (high, fast) = below[-1], above[0]
    if high <= low or flops <= low:
        return slow if flops <= low or high <= low else fast
    return slow + (fast - slow) * math.log(flops / low) / math.log(high / low)


def path(target: str) -> Path:
    """Where a device's calibration is kept."""
    return cache.folder("calibration") / f"{target}.json"


def store(target: str, rates: Rates) -> Path:
    """Keep a calibration for the predictions that follow."""
    where = path(target)
    where.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(where, json.dumps(asdict(rates), indent=1))


CARRIED: dict[str, Rates | None] = {}  # of devices by name: another machine's, whose predictions this process makes


def carry(found: Mapping[str, Rates | None]) -> None:
    """From now on `of` answers so for these devices, whatever was calibrated on this machine."""
    CARRIED.update(found)


def of(target: str) -> Rates | None:
    """The device's rates: calibrated where they were, else from its datasheet; None where neither is known."""
    device = devices.get(target)
    if device.name in CARRIED:
        return CARRIED[device.name]
    where = path(device.name)
    if where.exists():
        try:  # one of before does not tell the multiprocessors
            return Rates(**({"multiprocessors": device.multiprocessors} | json.loads(where.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise ScenarioError(f"{where}: not a calibration ({error}); run `refta-profiler calibrate` again, or remove it") from None
    return from_datasheet(device)


def from_datasheet(device: devices.Device) -> Rates | None:
    """Shares of the datasheet's peaks; None for a device without one (the CPU at hand)."""
    if device.bandwidth_bytes_per_second is None:
        return None
    shares = dict.fromkeys(DATASHEET_DTYPES, MATMUL_SHARE) | (FULL_WAVES_SHARE if device.multiprocessors else {})
    peaks = {dtype: device.peak_flops.get(name) for dtype, name in DATASHEET_DTYPES.items()}
    flops = {dtype: [(0.0, peak * shares[dtype])] for dtype, peak in peaks.items() if peak is not None}
    bandwidth = device.bandwidth_bytes_per_second * BANDWIDTH_SHARE
    host, cuda = dict(HOST_SECONDS), device.kind == "cuda"
    sizes = {"overlaps": cuda, "note": ESTIMATED, "multiprocessors": device.multiprocessors}
    return Rates(flops, bandwidth, KERNEL_SECONDS, host, VIEW_SECONDS, **sizes)
