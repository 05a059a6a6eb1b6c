"""What pretrained weights are like as ReFTA sees them.

How much of a stack R components capture under each transform; and whether the residual that stays frozen is quantised with less error than
the weights themselves, as the paper claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from refta import tensor_svd
from refta.sites import Stack, find_stacks, stack_tensors
from refta_profiler import models
from refta_profiler.plan import Point
from refta_profiler.processes import loading_quietly
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Scenario
from refta_profiler.task.quantisation import QUANTISERS, squared_error


def look(scenario: Scenario, point: Point, folder: RunFolder, progress: Any) -> None:
    """residuals.json in the folder, of the point's model, where the scenario asks for it and it is not there with these settings."""
    if scenario.residuals is None:
        return
    settings = {"model": scenario.model, "targets": scenario.targets, **scenario.residuals.model_dump()}
    if folder.residuals().get("settings") == settings:
        return
    loading_quietly()
    model = models.build(point, "cpu")
    stacks = find_stacks(model, scenario.targets or [])
    progress.start("residuals", len(stacks))
    entries = []
    for stack in stacks:
        entries += of_stack(stack, scenario.residuals.ranks, scenario.residuals.transforms)
        progress.done(stack.name)
    folder.write_residuals({"version": 1, "settings": settings, "entries": entries})


def of_stack(stack: Stack, ranks: Sequence[int], transforms: Sequence[str]) -> list[dict[str, Any]]:
    """An entry a transform and rank: captured energy and, by quantiser, the squared errors of weights and residual.

    Energy is a fraction of ‖T‖², T with the biases as a column; biases are not quantised.
    """
    weight, bias = stack_tensors(stack)
    plain = {name: squared_error(weight, quantiser) for name, quantiser in QUANTISERS.items()}
    most = tensor_svd.largest_rank(*weight.shape, bias=bias is not None)
    return [
        {"stack": stack.role, "layers": len(weight), "transform": transform, "rank": rank, **_entry(weight, bias, transform, rank, plain)}
        for transform in transforms
        for rank in ranks
        if rank <= most
    ]


def _entry(weight: torch.Tensor, bias: torch.Tensor | None, transform: str, rank: int, plain: dict[str, float]) -> dict[str, Any]:
    found = tensor_svd.decompose(weight, bias, rank, transform)
    whole, left = (_energy(*parts) for parts in ((weight, bias), (found.residual_weight, found.residual_bias)))
    residual = {name: squared_error(found.residual_weight, quantiser) for name, quantiser in QUANTISERS.items()}
    return {"energy": 1 - left / whole, "weights_error": plain, "residual_error": residual}


def _energy(weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    return float(weight.double().square().sum()) + (0.0 if bias is None else float(bias.double().square().sum()))
