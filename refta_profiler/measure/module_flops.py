"""FLOPs of the forward pass by module: fvcore's table beside ours, and where and why the two differ.

fvcore counts on a traced graph, one for a multiply-add, which is 2 here; what it counts for norms (5 or 4 a number, its own estimate), for
pooling and for interpolation are operations already. We count on dispatched operations by torch's formulas: products, convolutions and
attention, nothing elementwise.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refta_profiler import flops
from refta_profiler.errors import in_a_line
from refta_profiler.measure.modules import ROOT, ModuleStack, pattern
from refta_profiler.workload import Workload, precision

PRODUCTS, CONVOLUTIONS, ATTENTION, NORMS = "matrix products", "convolutions", "attention", "norms"
FAMILIES = {  # names of operations, without `aten::`, by what they are; fvcore's own names among them
    PRODUCTS: ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "einsum", "mv", "addmv", "dot", "_scaled_mm"),
    CONVOLUTIONS: ("conv", "convolution", "_convolution", "cudnn_convolution", "_slow_conv2d_forward"),
    ATTENTION: ("scaled_dot_product", "_flash_attention_forward", "_efficient_attention_forward", "flex_attention"),
    NORMS: ("layer_norm", "batch_norm", "group_norm", "instance_norm"),
}
REASONS = {
    PRODUCTS: "products within operations that fvcore cannot look into",
    CONVOLUTIONS: "convolutions within operations that fvcore cannot look into",
    NORMS: "fvcore estimates 5 operations a number for a norm with weights (4 without); torch, and so ours, counts none",
}
OURS_ALONE, FVCORES_ALONE, UNLIKE = (  # of any other family: 0 there, 0 here, neither
    "fvcore has no formula for it; ours is torch's",
    "fvcore estimates a few operations for every number; torch, and so ours, counts none",
    "fvcore and torch each have a formula of their own",
)
MULTIPLY_ADDS = (PRODUCTS, CONVOLUTIONS, ATTENTION)  # what fvcore counts one of where there are 2 operations
MOVING = ("empty", "new_empty", "_to_copy", "copy_", "clone", "detach", "lift_fresh", "_unsafe_view")  # memory, and no arithmetic


def module_flops(work: Workload) -> dict[str, Any]:
    """The forward pass by both counts: {modules, total, operations, difference, uncounted, reason}.

    modules, over those whose names differ in numbers alone: [{module, modules, ours, fvcore}], with all that they call. total: {ours,
    fvcore}. operations: {ours: {name: FLOP}, fvcore: {name: FLOP}}. difference: [{family, ours, fvcore, why}] of those that differ.
    uncounted: {neither: {name: calls}, fvcore: {name: calls}, ours: {name: calls}}: what has no formula in either, or in the one named.
    Without fvcore, or where it cannot trace the model, its numbers are None and `reason` says why. Checkpointing changes neither count: a
    forward pass is a forward pass.
    """
    ours = count_ours(work)
    theirs, reason = count_fvcore(work)
    return {
        "modules": side_by_side(work.model, ours.by_module, theirs.by_module if theirs else None),
        "total": {"ours": sum(ours.by_operation.values()), "fvcore": sum(theirs.by_operation.values()) if theirs else None},
        "operations": {"ours": dict(ours.by_operation), "fvcore": dict(theirs.by_operation) if theirs else None},
        "difference": difference(ours, theirs) if theirs else None,
        "uncounted": uncounted(ours, theirs),
        "reason": reason,
    }


class Count:
    """FLOPs by module (each with what it calls) and by operation, and how often what has no formula was called."""

    def __init__(self) -> None:
        self.by_module: Counter[str] = Counter()
        self.by_operation: Counter[str] = Counter()
        self.without_formula: Counter[str] = Counter()


class OurCount(TorchDispatchMode):
    """Counts what runs under it for the modules that are at work."""

    def __init__(self, stack: ModuleStack) -> None:
        super().__init__()
        self.stack, self.found = stack, Count()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        number, name = flops.count(func, args, kwargs or {}, out), func._overloadpacket.__name__
        if number:
            self.found.by_operation[name] += number
            for module in dict.fromkeys((ROOT, *self.stack.names)):
                self.found.by_module[module] += number
        elif computes(func, out):
            self.found.without_formula[name] += 1
        return out


def computes(func: Any, out: Any) -> bool:
    """Whether an operation does arithmetic on numbers of a floating-point tensor: not a view, not a copy, not an allocation."""
    if func.namespace != "aten" or func._overloadpacket.__name__.startswith(MOVING):
        return False
    aliases = [one.alias_info for one in func._schema.returns]
    if any(one is not None and not one.is_write for one in aliases):
        return False
    return any(isinstance(one, torch.Tensor) and one.is_floating_point() for one in tree_leaves(out))


def count_ours(work: Workload) -> Count:
    """Our count of one forward pass with its loss."""
    stack = ModuleStack()
    with stack.following(work.model), OurCount(stack) as counter, precision(work):
        work.model(**work.batch)
    return counter.found


def count_fvcore(work: Workload) -> tuple[Count | None, str]:
    """fvcore's count of one forward pass with its loss, a multiply-add as 2; or None and why."""
    if importlib.util.find_spec("fvcore") is None:
        return None, "fvcore is not installed (`pip install fvcore`)"
    model = _OnTensors(work.model, list(work.batch))
    try:
        with warnings.catch_warnings(), precision(work):
            warnings.simplefilter("ignore")  # importing it uses what torch deprecates
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(model, tuple(work.batch.values())).ancestor_mode("caller").tracer_warnings("none")
            return _read(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)), ""
    except Exception as error:  # whatever a tracer makes of a model is a reason, and no failure of the measurement
        return None, f"fvcore cannot trace the model: {in_a_line(error)}"


def _read(analysis: Any) -> Count:
    found = Count()
    for name, operations in analysis.by_module_and_operator().items():
        if name != "model":  # the wrapper, '', has that and what the model's own hooks do before it
            found.by_module[name.removeprefix("model.") or ROOT] = sum(_whole(one, value) for one, value in operations.items())
    found.by_operation.update({name: _whole(name, value) for name, value in analysis.by_operator().items()})
    found.without_formula.update({name.removeprefix("aten::"): count for name, count in analysis.unsupported_ops().items()})
    return found


def _whole(operation: str, value: float) -> int:
    """fvcore's number as FLOPs: a multiply-add is 2; what it counts for norms, pooling and interpolation are operations already."""
    return 2 * int(value) if family(operation) in MULTIPLY_ADDS else int(value)


class _OnTensors(nn.Module):
    """The model as a function of tensors alone, as a tracer wants it: a batch's values in order → the loss."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, values, strict=True))).loss


def family(operation: str) -> str:
    """What kind of operation it is; its own name where it is of none."""
    name = operation.removeprefix("_")
    for kind, names in FAMILIES.items():
        if operation in names or (kind in (ATTENTION, CONVOLUTIONS) and name.startswith(names[0])):
            return kind
    return operation


def difference(ours: Count, theirs: Count) -> list[dict[str, Any]]:
    """The families of operations that the counts differ in, and why; their differences sum to that of the totals."""
    sums: dict[str, list[int]] = {}
    for place, count in enumerate((ours, theirs)):
        for name, value in count.by_operation.items():
            sums.setdefault(family(name), [0, 0])[place] += value
    closed = ", ".join(opaque(theirs))
    return [
        {"family": kind, "ours": mine, "fvcore": other, "why": _why(kind, mine, other) + (f": {closed}" if _inside(kind) else "")}
        for kind, (mine, other) in sums.items()
        if mine != other
    ]


def _why(kind: str, mine: int, other: int) -> str:
    """Why the counts of a family differ, in words: its own reason, or a general one by which of the two counts it."""
    return REASONS.get(kind) or (OURS_ALONE if not other else FVCORES_ALONE if not mine else UNLIKE)


def _inside(kind: str) -> bool:
    """Whether the operations that fvcore cannot look into may have some of a family in them."""
    return kind in (PRODUCTS, CONVOLUTIONS)


def opaque(theirs: Count) -> dict[str, int]:
    """The operations that fvcore sees from outside alone while ours looks into them or has a formula: attention, functions in Python."""
    return {name: calls for name, calls in theirs.without_formula.items() if family(name) == ATTENTION or "PythonOp" in name}


def uncounted(ours: Count, theirs: Count | None) -> dict[str, dict[str, int]]:
    """Operations without a formula by name: in neither count, in fvcore's alone, in ours alone; with how often each ran."""
    if theirs is None:
        return {"neither": {}, "fvcore": {}, "ours": dict(ours.without_formula)}
    missing = opaque(theirs)
    alone = {name: calls for name, calls in ours.without_formula.items() if _counted_by(theirs, name)}
    rest = Counter({name: calls for name, calls in theirs.without_formula.items() if name not in missing})
    rest |= Counter({name: calls for name, calls in ours.without_formula.items() if name not in alone})
    return {"neither": dict(rest.most_common()), "fvcore": missing, "ours": alone}


def _counted_by(theirs: Count, name: str) -> bool:
    """Whether fvcore's count has what a dispatched operation does: a norm, or an operation of that name."""
    return family(name.removeprefix("native_")) == NORMS or name.removeprefix("_") in theirs.by_operation


def side_by_side(model: nn.Module, ours: Mapping[str, int], theirs: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """[{module, modules, ours, fvcore}] in the model's order, over modules whose names differ in numbers alone; those that have any."""
    rows: dict[str, dict[str, Any]] = {}
    for found, _ in model.named_modules():
        name = found or ROOT
        row = rows.setdefault(
            pattern(name), {"module": pattern(name), "modules": 0, "ours": 0, "fvcore": 0 if theirs is not None else None}
        )
        row["modules"] += 1
        row["ours"] += ours.get(name, 0)
        if theirs is not None:
            row["fvcore"] += theirs.get(name, 0)
    return [row for row in rows.values() if row["ours"] or row["fvcore"]]
