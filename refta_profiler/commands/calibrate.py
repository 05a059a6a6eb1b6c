"""Measure what the device at hand reaches in matrix products, copies and launches, and keep it: predicted step times then rest on it.

Without a calibration, times for a GPU are from its datasheet's peaks, and times for the CPU are not predicted. Takes a few seconds; run
it on an otherwise idle machine.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from refta_profiler.commands.answer import Answer, table
from refta_profiler.commands.options import JsonOption
from refta_profiler.errors import ScenarioError


def command(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    json_: JsonOption = False,
) -> Answer:
    """The device's rates, measured and kept."""
    from refta_profiler import devices, rates, run
    from refta_profiler.measure import calibration

    if device not in ("auto", "cpu", "cuda"):
        raise ScenarioError(f"--device: '{device}'; it must be one of auto, cpu, cuda")
    kind = run.measuring_device(device)
    target = run.device_key(kind)
    found = calibration.calibrate(kind)
    sheet = None
    if target in devices.names():
        path = rates.store(target, found)
        kept = f"Kept in {path}; predictions for {target} use it from now on."
        sheet = devices.get(target)
    else:
        kept = f"Not kept: devices.yaml has no entry for '{target}' that predictions could be made for."
    rows = [("what", "measured", "of the datasheet's peak")]
    for dtype, points in found.matmul_flops.items():
        flops = points[-1][1]
        peak = sheet.peak_flops.get(rates.DATASHEET_DTYPES[dtype]) if sheet else None
        small = f" (small ones {points[0][1] / 1e12:,.2g})"
        rows.append((f"matrix products, {dtype}", f"{flops / 1e12:,.3g} TFLOP/s{small}", "–" if peak is None else f"{flops / peak:.0%}"))
    peak = sheet.bandwidth_bytes_per_second if sheet else None
    rows.append(("bandwidth", f"{found.bandwidth / 1e9:,.4g} GB/s", "–" if peak is None else f"{found.bandwidth / peak:.0%}"))
    for phase, seconds in found.host_seconds.items():
        rows.append((f"an operation issued, {phase}", f"{seconds * 1e6:.3g} µs", ""))
    rows.append(("a view", f"{found.view_seconds * 1e6:.3g} µs", ""))
    text = f"{found.measured_on['device']}\n{table(rows, indent='  ')}\n{kept}"
    return Answer([{"target": target, **asdict(found)}], text)
