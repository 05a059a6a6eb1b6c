"""A point whose method is a function of the user's own, put on its model."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from refta.adapter import Adapted
from refta.heads import head_parameters
from refta_profiler import own_code
from refta_profiler.errors import OwnCodeError
from refta_profiler.plan import Point


def attach(model: nn.Module, point: Point) -> Adapted:
    """The model with what the point's function made of it, in place.

    The function is called as `function(model, **arguments)`: every parameter is frozen but a classification head's, and what it makes lies
    on the model's device. Its own exceptions go through; OwnCodeError says what it left behind that cannot be used.
    """
    call, function = point.settings["call"], function_of(point)
    model.requires_grad_(False)
    head = head_parameters(model, point.task.get("train_head"))
    for parameter in head:
        parameter.requires_grad_(True)
    with contextlib.redirect_stdout(sys.stderr), next(model.parameters()).device:
        try:
            returned = function(model, **copy.deepcopy(point.settings["arguments"]))
        except SystemExit as error:
            raise OwnCodeError(f"{call} ends the process: {own_code.told(error, call)}") from error
    _check_returned(returned, model, call)
    return _adapted(model, point, head)


def function_of(point: Point) -> Callable[..., Any]:
    """The point's function, its module imported; OwnCodeError where there is none, or its code is not what the point was planned with."""
    own_code.refuse_changed(point.settings)
    return own_code.function(point.settings["call"])


def _check_returned(returned: Any, model: nn.Module, call: str) -> None:
    """Nothing; OwnCodeError where the function gave something else than the model that it was given."""
    if returned is None or returned is model:
        return
    hint = "it must change the model in place and return nothing"
    raise OwnCodeError(f"{call} returned another object, of type {type(returned).__name__}; {hint}")


def _adapted(model: nn.Module, point: Point, head: Iterable[nn.Parameter]) -> Adapted:
    """What is trained beside the head, and the modules that hold it; OwnCodeError where nothing is trained at all."""
    known = {id(parameter) for parameter in head}
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if not trained:
        raise OwnCodeError(f"{point.settings['call']} leaves nothing to train: what it adds must be parameters of the model's modules")
    own = {name: one for name, one in trained.items() if id(one) not in known}
    notes = [] if own else [f"{point.settings['call']} trains nothing but the head"]
    sites = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    return Adapted(
        model=model,
        method=point.method,
        order=None,
        settings=point.settings,
        targets=[],
        sites=sites,
        trainable_parameters=sum(one.numel() for one in own.values()),
        stacks=[],
        notes=notes,
    )
