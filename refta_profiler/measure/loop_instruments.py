"""The instruments of a loop that is not ours, one a step: a clock, the memory's window, the FLOP counter. Hooks tell them what happens."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from refta_profiler.flops import FlopCounter
from refta_profiler.measure import load, loop_start, window
from refta_profiler.measure.clock import Clock, watch
from refta_profiler.measure.loop_shapes import Shape
from refta_profiler.workload import tensors_in


@dataclass
class Found:
    """What the instruments say."""

    samples: list[dict[str, float]] = field(default_factory=list)  # of every timed step
    loads: list[dict[str, float | None]] = field(default_factory=list)  # of the machine meanwhile
    values: dict[str, int] = field(default_factory=dict)  # by metric
    faults: dict[str, str] = field(default_factory=dict)  # why a kind of step gave nothing
    other_bytes: int = 0  # live when the memory's step began, and neither the model's nor the optimizer's nor the batch
    shapes: list[Shape] = field(default_factory=list)  # of each forward of the step at hand
    steps_of: dict[str | None, list[list[Shape]]] = field(default_factory=dict)  # those of every step, by its kind


class Instruments:
    """What measures one step of `kind` 'time', 'memory' or 'flops' between `begin` and `end`; nothing for another kind."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.found = Found()
        self._clock: Clock | None = None
        self._window: window.CpuWindow | window.CudaWindow | None = None
        self._counter: FlopCounter | None = None
        self._eagerly = contextlib.ExitStack()
        self._before = load.now()

    def begin(self, kind: str | None, inputs: Any) -> None:
        """The step's first forward begins, on these inputs."""
        self.found.shapes = []
        if kind == "time":
            self._before = load.now()
            self._clock = Clock(watch(self.device))
        elif kind == "memory":
            self._open_window(inputs)
        elif kind == "flops":
            self._start_counter()

    def _open_window(self, inputs: Any) -> None:
        if torch.autograd._profiler_enabled():  # pyright: ignore[reportPrivateImportUsage]
            self.found.faults["memory"] = "another torch profiler was running in the step that was to be measured"
            return
        known = [*self._state(), *tensors_in(inputs)]
        opened = window.CpuWindow() if self.device.type == "cpu" else window.CudaWindow(self.device)
        opened.start(known)
        self._window = opened
        self.found.other_bytes = opened.live_bytes - window.nbytes(known, self.device)

    def _state(self) -> list[torch.Tensor]:
        """The model's parameters, gradients and buffers, and the optimizer's state."""
        parameters = list(self.model.parameters())
        gradients = [one.grad for one in parameters if one.grad is not None]
        return [*parameters, *gradients, *self.model.buffers(), *tensors_in(list(self.optimizer.state.values()))]

    def _start_counter(self) -> None:
        if _get_current_dispatch_mode() is not None:
            self.found.faults["flops"] = "another torch dispatch mode was active in the step that was to be counted"
            return
        self._counter = FlopCounter()
        self._counter.__enter__()

    def step_is_next(self, kind: str | None) -> None:
        """The step that comes is of that kind. Where operations are to be counted, what is compiled runs as it is written from here on.

        Once its forward has begun that is too late: torch.compile gives code up for good that it meets under a dispatch mode.
        """
        if kind == "flops" and loop_start.compiles():
            self._eagerly.enter_context(torch.compiler.set_stance("force_eager"))

    def forward(self, shape: Shape, within_step: Any) -> None:
        """A forward of that shape begins; within_step: by a closure that the optimizer calls, between work of its own."""
        self.found.shapes.append(shape)
        if self._clock:
            self._clock.forward()
            self._clock.tells_phases &= not within_step
        if self._counter:
            self._counter.phase = "forward"

    def outputs(self, outputs: Any) -> None:
        """A forward gave these: the first of their gradients that is wanted is the backward's beginning."""
        if self._clock or self._counter:
            for one in tensors_in(outputs):
                if one.grad_fn is not None:
                    one.grad_fn.register_prehook(self._backward_begins)

    def _backward_begins(self, _: Any) -> None:
        if self._counter:
            self._counter.phase = "backward"
        if self._clock and self._clock.backward():
            engine: Any = torch.autograd.Variable._execution_engine  # how torch's own FSDP hears of a backward's end
            ends = self._clock.backward_ends
            engine.queue_callback(lambda: engine.queue_callback(ends))  # after what was queued meanwhile: DDP's wait for its reductions

    def end(self, kind: str | None) -> None:
        """The step is done: whatever measured it gives its numbers."""
        if self._clock:
            self.found.samples.append(self._clock.step_ends())
            self.found.loads.append(asdict(load.between(self._before, load.now())))
        if self._window:
            self.found.values |= self._window.stop()
        if self._counter:
            self._leave_counter()
            self._count(self._counter)
        self._clock = self._window = self._counter = None
        self._eagerly.close()
        self.found.steps_of.setdefault(kind, []).append(self.found.shapes)

    def _count(self, counter: FlopCounter) -> None:
        """Take the counter's numbers; the forward's alone where a backward was seen to begin."""
        self.found.values["step_flops"] = counter.total()
        if counter.phase == "backward":
            self.found.values["forward_flops"] = counter.by_phase.get("forward", 0)

    def abandon(self) -> None:
        """The step is not going to end."""
        if self._window:
            self._window.abandon()
        self._leave_counter()
        self._clock = self._window = self._counter = None
        self._eagerly.close()

    def _leave_counter(self) -> None:
        if self._counter and _get_current_dispatch_mode() is self._counter:
            self._counter.__exit__(None, None, None)
