"""How many components each slice has (R_j), which depends on the weights: computed once per weights and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json

import torch

from refta import tensor_svd
from refta.operands import AUTOMATIC
from refta.sites import find_stacks, stack_tensors
from refta_profiler import cache, devices, models
from refta_profiler.errors import ScenarioError
from refta_profiler.plan import Point
from refta_profiler.whole_files import write_whole

LARGEST = 1_500_000_000  # parameters: beyond this the model is not built for its slice ranks
SMALL = 30_000_000  # parameters: up to this it is for every order, of which those beside `slices` need them for a few hundred bytes

Ranks = dict[str, tuple[int, ...]]


def known(point: Point, target: str | None = None) -> Ranks | None:
    """The slice ranks of the point's weights; None where the method has no slices, or the weights are too many to build here.

    Beside `slices` they tell how many slices have components at all, which a few index tensors and temporaries are as long as: known for
    small models on the CPU, where predictions are exact to the byte, and assumed elsewhere.
    """
    if point.method != "refta":
        return None
    every = point.order in ("slices", *AUTOMATIC)
    if not every and (devices.get(target or point.target).kind != "cpu" or _parameters(point) > SMALL):
        return None  # whether or not another order's are kept on disk: a prediction does not depend on what was predicted before
    path = cache.folder("slice_ranks") / f"{_key(point)}.json"
    if path.exists():
        return {name: tuple(ranks) for name, ranks in json.loads(path.read_text(encoding="utf-8")).items()}
    if _parameters(point) > LARGEST:
        return None
    try:
        found = _computed(point)
    except ScenarioError:  # weights that cannot be loaded
        if every:
            raise
        return None
    with contextlib.suppress(OSError, ScenarioError):  # a folder that cannot be written costs time, not the prediction
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found))
    return found


def _parameters(point: Point) -> int:
    return sum(one.numel() for one in models.build_on_meta(point).parameters())


def _key(point: Point) -> str:
    weights = [point.weights, point.seed, point.precision == "bf16", models.fingerprint(point.model), point.task]
    content = [point.model, weights, point.targets, point.rank, str(point.settings.get("transform")), torch.__version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


@torch.no_grad()
def _computed(point: Point) -> Ranks:
    model = models.build(point, "cpu")
    found: Ranks = {}
    for stack in find_stacks(model, point.targets):
        weights, biases = stack_tensors(stack)
        result = tensor_svd.decompose(weights, biases, point.settings["rank"], point.settings.get("transform", "dct"))
        found[stack.name] = tuple(result.slice_ranks.tolist())
    return found
