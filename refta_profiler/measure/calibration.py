"""What the device at hand reaches: matrix products, bandwidth, launches; the numbers that the roofline needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from refta_profiler.measure import environment
from refta_profiler.rates import Rates

WIDTHS = {"cpu": (64, 128, 256, 512, 1024), "cuda": (512, 1024, 2048, 4096, 8192)}  # of the square matrix products
NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 28}  # of the copies, far beyond any cache
LINKS = 400  # operations of the chains that time a launch
REPEATS = 5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def calibrate(device: str) -> Rates:
    """The rates of 'cpu' or 'cuda', each the median of five repeats after one that is dropped."""
    with torch.no_grad():
        flops = {str(dtype).removeprefix("torch."): matmul_flops(device, dtype) for dtype in DTYPES if runs(device, dtype)}
        bandwidth = copy_bandwidth(device)
        kernel = tiny_kernel_seconds(device)
    host, view = launch_seconds(device)
    cuda = device == "cuda"
    found = environment.describe(device)
    where = {name: found[name] for name in ("device", "started", "versions", "cpu", "gpu")}
    note = f"roofline from rates that `calibrate` measured on {found['device']}, {found['started']}, torch {torch.__version__}"
    # on a CPU the launch's time holds the tiny kernel's own
    many = torch.cuda.get_device_properties(0).multi_processor_count if cuda else None
    told = {"note": note, "calibrated": True, "measured_on": where, "multiprocessors": many}
    return Rates(flops, bandwidth, kernel if cuda else 0.0, host, view, overlaps=cuda, **told)


def runs(device: str, dtype: torch.dtype) -> bool:
    """Whether the device multiplies matrices in that dtype."""
    try:
        one = torch.ones(8, 8, dtype=dtype, device=device)
        torch.mm(one, one)
    except RuntimeError:
        return False
    return True


def matmul_flops(device: str, dtype: torch.dtype) -> list[tuple[float, float]]:
    """(FLOPs, FLOP/s) of square matrix products, from small to large; small ones in a row, so that the clock can tell them."""
    found = []
    for width in WIDTHS[device]:
        # as in a step: many weights in turn, so that they come from memory and not from a cache
        count = max(1, min(16, (1 << 24) // width**2))
        pairs = [tuple(torch.randn(width, width, device=device).to(dtype) for _ in range(2)) for _ in range(count)]

        def row(pairs: list = pairs) -> None:
            for a, b in pairs:
                torch.mm(a, b)

        found.append((2.0 * width**3, 2 * width**3 * count / median_seconds(device, row)))
    return found


def copy_bandwidth(device: str) -> float:
    """Bytes/s, read and written, of a sum of two large vectors into a third."""
    a, b, out = (torch.zeros(NUMBERS[device], device=device) for _ in range(3))
    return 3 * a.nbytes / median_seconds(device, lambda: torch.add(a, b, out=out))


def tiny_kernel_seconds(device: str) -> float:
    """Seconds of an operation on a few numbers, in a row of them that the device works off."""
    one = torch.zeros(64, device=device)

    def row() -> None:
        for _ in range(LINKS):
            one.add_(1.0)

    return median_seconds(device, row) / LINKS


def launch_seconds(device: str) -> tuple[dict[str, float], float]:
    """Seconds to issue an operation that autograd records, by phase, and to make a view: from chains on few numbers."""
    weight = torch.ones(4, 4, device=device, requires_grad=True)
    seconds: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}
    for _ in range(REPEATS + 1):
        started = now(device)
        y = weight
        for _ in range(LINKS):
            y = torch.nn.functional.gelu(y)
        middle = now(device)
        y.sum().backward()
        ended = now(device)
        with torch.no_grad():
            for _ in range(LINKS):
                weight.mul_(1.0)
        last = now(device)
        for phase, spent in zip(seconds, (middle - started, ended - middle, last - ended), strict=True):
            seconds[phase].append(spent / LINKS)
    with torch.no_grad():
        view = median_seconds(device, lambda: [weight.view(16) for _ in range(LINKS)]) / LINKS
    return {phase: statistics.median(found[1:]) for phase, found in seconds.items()}, view


def median_seconds(device: str, work: Callable[[], object]) -> float:
    """The median time of the work, after one run that is dropped."""
    spent = []
    for _ in range(REPEATS + 1):
        started = now(device)
        work()
        spent.append(now(device) - started)
    return statistics.median(spent[1:])


def now(device: str) -> float:
    """Seconds, with the device's work done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
