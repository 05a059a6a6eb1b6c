"""How many components each slice has (R_j), which depends on the weights: computed once per weights and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from pathlib import Path

import torch

from refta import tensor_svd
from refta.operands import AUTOMATIC
from refta.sites import find_stacks, stack_tensors
from refta_profiler import cache, devices, models, weight_identity
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
    try:
        path = _path(point)
        if path is not None and path.exists():
            return {name: tuple(ranks) for name, ranks in json.loads(path.read_text(encoding="utf-8")).items()}
        if _parameters(point) > LARGEST:
            return None
        found = _computed(point)
    except ScenarioError:  # weights that cannot be loaded
        if every:
            raise
        return None
    with contextlib.suppress(OSError, ScenarioError):  # a folder that cannot be written costs time, not the prediction
        _keep(_path(point), found)  # asked anew: weights that were fetched just now have a name
    return found


def _path(point: Point) -> Path | None:
    """Where the point's slice ranks are kept; None where its pretrained weights cannot be told from others."""
    weights = weight_identity.of(point.model) if point.weights == "pretrained" else ""
    if point.weights == "pretrained" and not weights:
        return None
    return cache.folder("slice_ranks") / f"{_key(point, weights)}.json"


def _keep(path: Path | None, found: Ranks) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found))


def _parameters(point: Point) -> int:
    return sum(one.numel() for one in models.build_on_meta(point).parameters())


def _key(point: Point, identity: str) -> str:
    """A hash of all that decides the weights and what is asked of them; identity: of the pretrained ones, '' of random ones.

    Random weights are drawn as the installed transformers draws them.
    """
    weights = [point.weights, identity, point.seed, point.precision == "bf16", models.fingerprint(point.model), point.task]
    drawn_by = [torch.__version__, importlib.metadata.version("transformers")]  # which is told without the seconds of importing it
    content = [point.model, weights, point.targets, point.rank, str(point.settings.get("transform")), *drawn_by]
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
