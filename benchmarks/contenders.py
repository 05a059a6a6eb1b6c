"""Who is compared: models on one set of frozen base weights, each with a method on it, an optimizer, and a step to run."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from benchmarks import reference
from refta.adapter import Adapted
from refta.sites import find_stacks
from refta.stacking import CONTAINER
from refta_profiler import models, plan, scenario, workload
from refta_profiler.plan import Point
from refta_profiler.workload import Workload

RANK = 16
ORDERS = ("shared", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack", "fused", "fused_fold", "auto", "auto_time")
TARGETS = ("query", "value")
HEADS = ("classifier", "score")
REFERENCE = f"lora r={RANK}"  # whose step times are 1
EQUAL_RANK, SMALL, EQUAL_PARAMETERS, PISSA, NAIVE, FLOOR, HEAD = (
    REFERENCE,
    "lora r=8",
    "lora r=1",
    f"pissa r={RANK}",
    "naive",
    "floor",
    "head",
)


@dataclass
class Contender:
    """A label and a workload; `order` is set before each step where several orders share one adapted model."""

    label: str
    work: Workload
    sites: list[str]
    setup_seconds: float | None
    order: str | None = None

    def prepare(self) -> None:
        """Have the model run in this contender's order."""
        if self.order is not None:
            self.work.adapted.use_order(self.order)

    def step(self) -> None:
        """One training step."""
        workload.training_step(self.work)


def points(model: str, batch: int, *, seq: int | None, target: str) -> dict[str, Point]:
    """The scenario points of every contender that is a method, by label."""
    ranks = {EQUAL_RANK: ("lora", RANK), SMALL: ("lora", 8), EQUAL_PARAMETERS: ("lora", 1), PISSA: ("pissa", RANK)}
    methods = [{"name": "head", "label": HEAD}]
    methods += [{"name": name, "rank": rank, "label": label} for label, (name, rank) in ranks.items()]
    methods += [{"name": "refta", "rank": RANK, "order": order, "label": f"refta/{order}"} for order in ORDERS]
    values: dict[str, Any] = {"model": model, "methods": methods, "batch": [batch], "target": target, "targets": list(TARGETS)}
    values |= {"seq": [seq]} if seq is not None else {}
    found = plan.points(scenario.from_values(values, "benchmarks"))
    return {point.label: point for point in found}


def contenders(model: str, *, seq: int | None, device: torch.device, only: Callable[[str], bool]) -> Iterator[Contender]:
    """Every contender that `only` lets through, one after the other; the batch is set by `with_batch`."""
    given = points(model, 1, seq=seq, target="cpu")
    base = models.build(given[HEAD], device)
    for label in (HEAD, *(one for one in given if one.startswith(("lora", "pissa")))):
        if only(label):
            yield _attached(base, given[label])
    orders = [order for order in ORDERS if only(f"refta/{order}")]
    if orders or only(FLOOR) or only(NAIVE):
        yield from _refta(base, given, orders, only)


def _refta(base: nn.Module, given: dict[str, Point], orders: list[str], only: Callable[[str], bool]) -> Iterator[Contender]:
    """All orders on one adapted model; the naive rebuild on a copy of it; the floor on the sites that it has."""
    first = _attached(base, given["refta/shared"])
    yield from (replace(first, label=f"refta/{order}", order=order) for order in orders)
    point = given["refta/shared"]
    if only(NAIVE):
        model = reference.naive(first.work.model, _shared(first.work.model, [CONTAINER]))
        yield Contender(NAIVE, _workload(point, model, first.work.adapted), first.sites, first.setup_seconds)
    if only(FLOOR):
        head = _attached(base, given[HEAD])
        model = reference.floor(head.work.model, first.sites)
        yield Contender(FLOOR, _workload(given[HEAD], model, head.work.adapted), first.sites, None)


def _attached(base: nn.Module, point: Point) -> Contender:
    """A copy of the base with the point's method: frozen weights that no method changes are shared, not copied."""
    sites = [site.path for stack in find_stacks(base, TARGETS) for site in stack.sites]
    model = copy.deepcopy(base, _shared(base, sites))
    start = time.perf_counter()
    adapted = workload.attach(model, point)
    seconds = time.perf_counter() - start
    model.train()
    return Contender(point.label, _workload(point, model, adapted), adapted.sites, seconds)


def _workload(point: Point, model: nn.Module, adapted: Adapted) -> Workload:
    device = next(model.parameters()).device
    optimizer = workload.make_optimizer(model, point, foreach=device.type == "cuda")
    return Workload(point, model, adapted, optimizer, {})


def _shared(model: nn.Module, apart: Sequence[str]) -> dict[int, Any]:
    """What a deep copy must not copy: every parameter but the head's and those under the paths `apart`."""
    prefixes = tuple(f"{one}." for one in (*HEADS, *apart))
    return {id(one): one for name, one in model.named_parameters() if not name.startswith(prefixes)}


def with_batch(one: Contender, batch: int) -> Contender:
    """The contender on a batch of that size."""
    point = replace(one.work.point, batch=batch)
    device = next(one.work.model.parameters()).device
    return replace(one, work=replace(one.work, point=point, batch=models.batch(point, device)))
