"""A followed step as data so small that a page can hold it and replay it at any batch: sizes as lines in the batch, events, operations."""

from __future__ import annotations

import json
import traceback
from collections import Counter
from typing import Any

from refta import registry
from refta.errors import SettingError
from refta.operands import AUTOMATIC
from refta_profiler import devices, own_code, plan, rates, scenario
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form, slice_ranks
from refta_profiler.predict.dryrun import on_device, sweep
from refta_profiler.predict.kernels import cublas_workspace_bytes, workspace_places
from refta_profiler.predict.releases import release
from refta_profiler.predict.row_sums import threads_of
from refta_profiler.predict.storage import FULLY
from refta_profiler.predict.trace import NotAffineError, Sweep, Trace
from refta_profiler.waves import PART, TILES
from refta_profiler.workload import PHASES

PROVING = (2, 4, 8)  # batches that are followed where the run's own do not prove that sizes are lines in the batch
NOT_LINES = "its sizes are not lines in the batch, so only the batches of the run are known"
HELD = "a step's outputs live into the next one, so only the batches of the run are known"
AUTO = "the order that `auto` takes changes with the batch, so only the batches of the run are known"
NO_OPTION = ("weights", "seed")
NAMED = ("model", "label", "method", "order", "rank", "seq", "precision", "checkpointing", "parallel", "target", "targets")


def of(point: Point) -> dict[str, Any]:
    """The point's variant and its step at every batch, or the `reason` why that is not known.

    `first` is the step of batch 1 (where torch takes other paths), `following` that of every larger batch.
    """
    named = {name: getattr(point, name) for name in NAMED} | asked(point)
    if point.unsupported or point.order in AUTOMATIC:
        return named | {"reason": point.unsupported or AUTO}
    if point.loop["keep_outputs"] == "next":
        return named | {"reason": HELD}
    try:
        return named | _of(point, sweep(point, point.target, slice_ranks.known(point)))
    except NotAffineError:
        return named | {"reason": NOT_LINES}
    except SettingError as error:
        return named | {"reason": str(error)}
    except Exception as error:  # whatever a model or a method does under fake tensors is an answer with its reason
        last = traceback.extract_tb(error.__traceback__)[-1]
        return named | {"reason": f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"}


def asked(point: Point) -> dict[str, Any]:
    """How `check` is asked about the point: `settings` and `step` beyond what is usual, and `no_option`, what it cannot take.

    `settings` is None for code of the user's own, about which it cannot be asked.
    """
    if point.method == own_code.NAME:
        return {"settings": None, "step": [], "no_option": []}
    values = {"model": point.model, "methods": [{"name": "head"}], "batch": [1], "target": point.target, "targets": point.targets}
    plain = plan.points(scenario.from_values(values, "check"))[0]
    usual = registry.settings(point.method, {})
    given = {name: value for name, value in point.settings.items() if value != getattr(usual, name, None)}
    step = [words for name in scenario.STEP for words in said(name, getattr(point, name), getattr(plain, name))]
    return {"settings": given, "step": step, "no_option": [name for name in NO_OPTION if getattr(point, name) != getattr(plain, name)]}


def said(name: str, value: Any, usual: Any) -> list[str]:
    """What is unlike the usual, as `--step` takes it: ["loop.attention_mask=true"]."""
    if isinstance(value, dict):
        usual = usual if isinstance(usual, dict) else {}
        return [words for key, inner in value.items() for words in said(f"{name}.{key}", inner, usual.get(key))]
    return [] if value == usual else [f"{name}={value if isinstance(value, str) else json.dumps(value)}"]


def _of(point: Point, found: Sweep) -> dict[str, Any]:
    first, (low, high) = found.trace(1), _bases(found)
    device = devices.get(point.target)
    costs = closed_form.point_costs(point, low.shapes)[0] if low.shapes and not low.repeated else None
    known = rates.of(device.name)
    return {
        "trainable_parameters": low.trainable_parameters,
        "adapter_parameters": low.adapter_parameters,
        "own_step_flops": [sum(one.cost.step_flops.constant for one in costs), sum(one.cost.step_flops.per_token for one in costs)]
        if costs
        else None,  # a + b·tokens
        "memory": point.allocator if device.kind == "cuda" else "plain",
        "workspace_bytes": cublas_workspace_bytes(device.compute_capability) if device.kind == "cuda" else 0,
        "biased_workspace_bytes": release().biased_workspace_bytes if device.kind == "cuda" else 0,
        "scratch": threads_of(device),
        "rates": _rates(known) if known else None,
        "first": _step(first, first, cuda=device.kind == "cuda"),
        "following": _step(low, high, cuda=device.kind == "cuda"),
    }


def _bases(found: Sweep) -> tuple[Trace, Trace]:
    """Two traces through which every batch above 1 is proven to lie on a line; NotAffineError where it does not."""
    for batch in PROVING:
        if found.proven is None:
            found.trace(batch)
    if not found.proven:
        raise NotAffineError
    low, high = sorted(batch for batch in found.followed if batch > 1)[:2]
    return found.followed[low], found.followed[high]


def _rates(known: rates.Rates) -> dict[str, Any]:
    names = ("bandwidth", "kernel_seconds", "host_seconds", "view_seconds", "overlaps", "multiprocessors")
    return {"matmul_flops": known.full_waves, "tiles": TILES, "part": PART, **{name: getattr(known, name) for name in names}}


def _step(low: Trace, high: Trace, *, cuda: bool) -> dict[str, Any]:
    """The step of all batches through two (through one: of that batch alone).

    sizes: lines. initial: which size n each block has that is there before, or −1 − n of one that goes when the method is put on. events:
    a number n from 0 on allocates a block of sizes[n], −k frees the k-th youngest of the live ones; what is not freed outlives the step.
    products: how many events there were when the first matrix products of forward and backward had their results, where workspaces are
    taken; biased: when the first with a bias had. row_sums: sums over rows, for which a GPU takes scratch (row_sums.py): [how many events
    there were when it had its result, numbers for an output, outputs, bytes of a number, outputs that are read together]. operations:
    [phase, dtype, FLOPs, bytes, how many of it, the shape of a matrix product's result or 0, what its kernel reaches], without the last
    two, or the last, where they say nothing.
    """
    if cuda:
        low, high = on_device(low), on_device(high)
    sizes: dict[tuple[int, int], int] = {}

    def size(one: int, other: int) -> int:
        return sizes.setdefault(_line(low.batch, one, high.batch, other), len(sizes))

    before = [(name, size(one, other)) for (name, one), (_, other) in zip(low.initial, high.initial, strict=True)]
    events, live = [], []
    for number, sign in low.stream.events:
        if sign > 0:
            events.append(size(low.stream.blocks[number].nbytes, high.stream.blocks[number].nbytes))
            live.append(number)
        else:
            place = live.index(number)
            events.append(place - len(live))
            live.pop(place)
    operations = Counter(
        (
            *(one.phase, one.dtype),
            *(_line(low.batch, size, high.batch, larger) for size, larger in ((one.flops, other.flops), (one.nbytes, other.nbytes))),
            tuple(_line(low.batch, size, high.batch, larger) for size, larger in zip(one.product, other.product, strict=True)),
            one.reached,
        )
        for one, other in zip(low.operations, high.operations, strict=True)
        if one.phase in PHASES
    )
    sums = [
        [
            one.place,
            _line(low.batch, one.inputs, high.batch, other.inputs),
            _line(low.batch, one.outputs, high.batch, other.outputs),
            one.itemsize,
            one.vector,
        ]
        for one, other in zip(low.row_sums, high.row_sums, strict=True)
    ]
    flops = _line(low.batch, sum(low.flops_by_phase.values()), high.batch, sum(high.flops_by_phase.values()))
    return {
        "sizes": [list(one) for one in sizes],
        "initial": [number if name else -1 - number for name, number in before],
        "events": events,
        "products": list(workspace_places(low.products)),
        "biased": list(low.biased),
        "row_sums": sums,
        "step_flops": list(flops),
        "operations": [_operation(key, count) for key, count in operations.items()],
    }


def _operation(key: tuple, count: int) -> list[Any]:
    """What so many alike are, as a page has it; key: phase, dtype, FLOPs, bytes, the shape of a product and what is reached."""
    *first, product, reached = key
    return [*first, count, *([product or 0, reached] if reached != FULLY else [product] if product else [])]


def _line(batch: int, value: int, other_batch: int, other: int) -> tuple[int, int]:
    """(a, b) of the line a + b·batch through two batches; NotAffineError where b is not whole. Through 30 at 2 and 50 at 4: (10, 10)."""
    if batch == other_batch:
        return value, 0
    slope, rest = divmod(other - value, other_batch - batch)
    if rest:
        raise NotAffineError
    return value - slope * batch, slope
