"""`refta_profiler.profile`: measures a training loop that is not ours, from hooks on its model and its optimizer.

A step is what lies between a forward with gradients and the end of `optimizer.step()`. Steps that warm up come first, then steps that are
timed with nothing but the hooks, then one step under the memory's instrument and one under the FLOP counter; then the hooks go.
"""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from refta_profiler import results
from refta_profiler.errors import ScenarioError
from refta_profiler.measure import environment, gpu, loop_folder, loop_rows, loop_start, subject
from refta_profiler.measure.loop_hooks import hook_of
from refta_profiler.measure.loop_instruments import Found, Instruments
from refta_profiler.measure.loop_shapes import Shape
from refta_profiler.measure.out_of_memory import is_out_of_memory
from refta_profiler.results import Row

if TYPE_CHECKING:
    import pandas

KINDS = ("time", "memory", "flops")  # after warming up, in this order
_active: weakref.ref[profile] | None = None  # one at a time: instruments of two would measure each other


@dataclass(kw_only=True, eq=False)
class Asked:
    """How a loop is to be measured, and what cannot be seen in it."""

    label: str  # what the rows call it; several labels in one folder are compared
    folder: str | Path | None = None  # a run folder to write to, new or of earlier profiles
    warmup: int = 2
    steps: int = 5  # that are timed
    batch: int | None = None  # what is None is read off the model and its inputs
    seq: int | None = None
    method: str | None = None
    order: str | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        for name in ("warmup", "steps"):
            if getattr(self, name) < 1:
                raise ScenarioError(f"profile: {name}={getattr(self, name)}; it must be at least 1")


@dataclass(eq=False)
class profile(Asked):
    """Measures the training loop that runs within it; `rows` are a run's rows, `print(p)` a summary, `folder` a run folder to report on.

    The loop's numbers stay as they are, and its exceptions pass through. A loop with fewer than warmup + steps + 2 optimizer steps has
    rows that say what is missing. Example, to paste as it is:

        import torch
        import refta_profiler

        model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 4))
        optimizer = torch.optim.AdamW(model.parameters())
        with refta_profiler.profile(model, optimizer, label="two layers", folder="reports/mine") as p:
            for _ in range(10):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(torch.randn(8, 64)), torch.randint(4, (8,)))
                loss.backward()
                optimizer.step()
        print(p)  # and then, in a shell: python -m refta_profiler report reports/mine

    On the CPU the peak is exact for what Python can see when the step begins; on CUDA it is the caching allocator's.
    Of several ranks each has rows of its own, and rank 0 alone writes the folder.
    """

    model: nn.Module = field(repr=False)
    optimizer: Any = field(repr=False)
    rows: list[Row] = field(init=False, default_factory=list)
    found: Found = field(init=False, repr=False)  # once it has ended

    def __post_init__(self) -> None:
        super().__post_init__()
        while isinstance(inner := getattr(self.optimizer, "optimizer", None), torch.optim.Optimizer):
            self.optimizer = inner  # accelerate's wrapper, whose step calls the inner one's
        self.ranks = (0, 1)  # this process's, of how many
        self.autocast: torch.dtype | None = None
        self.done = 0  # optimizer steps of the model that were seen
        self.unled = 0  # optimizer steps that no forward of the model led to
        self.broken: list[Shape] = []  # the forwards of the step that memory ran out in
        self.gpu: list[dict[str, Any]] = []  # its clocks and heat as the loop began, and when all was measured
        self.environment: dict[str, Any] = {}  # what the loop runs on and with, as it began; of one that has a folder
        self._handles: list[Any] = []
        self._first: Any = None  # the hook of the first step
        self._open = self._within_step = False
        self._mode: bool | None = None  # whether the model was in training mode in the last forward with gradients of the first step

    def __enter__(self) -> profile:
        global _active
        other = _active and _active()
        if other is not None:
            raise ScenarioError(
                f"profile(label={self.label!r}): '{other.label}' is being profiled; one at a time: "
                "leave its `with` block first, or call its stop() where its loop broke off"
            )
        place = f"profile(label={self.label!r})"
        if not hasattr(self, "model"):
            raise ScenarioError(f"{place}: it has ended and holds its rows; make a new one for another loop")
        loop_start.check_optimizer(self.optimizer, place)
        device = loop_start.device_of(self.model, place)
        self.ranks = loop_start.ranks()
        if self._writes and self.folder is not None:
            loop_folder.check(self.folder)
            self.environment = environment.describe(str(device))
        self._look_at_gpu(device)
        self.instruments = Instruments(self.model, self.optimizer, device)
        self._attach()
        _active = weakref.ref(self)
        return self

    @property
    def _writes(self) -> bool:
        """Whether this process is the one of its job that writes the folder."""
        return self.ranks[0] == 0

    def _attach(self) -> None:
        """All hooks on, or none where one cannot be. Where the loop is compiled they run as they are, outside of what is compiled."""
        model, optimizer = self.model, self.optimizer
        apart: Any = torch.compiler.disable
        try:
            self._handles.append(model.register_forward_pre_hook(hook_of(model, self._before_forward), with_kwargs=True))
            self._handles.append(model.register_forward_hook(hook_of(model, self._after_forward)))
            self._handles.append(optimizer.register_step_pre_hook(apart(self._before_step)))
            self._handles.append(optimizer.register_step_post_hook(apart(self._after_step)))
        except BaseException:
            self._detach()
            raise

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self.stop(error)

    def stop(self, error: BaseException | None = None) -> None:
        """Take the hooks off, make the rows and write the folder; `error` is what ended the loop, if something did."""
        if not self._handles:
            return  # it was stopped before
        self._detach()
        self.found = self.instruments.found
        if self._open and error is not None and is_out_of_memory(error):
            self.broken = self.found.shapes
        if not self.finished:
            self._look_at_gpu(self.instruments.device)
        now = loop_start.ranks()
        self.ranks = now if now[1] > 1 else self.ranks  # the loop may have begun or left its process group meanwhile
        try:
            self.rows = loop_rows.make(self, error)
            if not self.rows and error is None:
                warnings.warn(str(self), stacklevel=3)
            if self.folder is not None and self.rows and self._writes:
                loop_folder.write(self, Path(self.folder))
        except Exception as fault:
            if error is None:
                raise
            error.add_note(f"refta_profiler: what was measured before could not be written either: {fault}")
        finally:
            del self.model, self.optimizer, self.instruments  # a profile that is kept must not keep them alive while the next is measured

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame, as a run's are."""
        return results.to_pandas(self.rows)

    def __str__(self) -> str:
        if self.rows:
            return loop_rows.summary(self.rows)
        return loop_rows.nothing(self) if hasattr(self, "found") else f"{self.label}: nothing was measured yet"

    @property
    def kind(self) -> str | None:
        """What the step at hand is for: 'time', 'memory', 'flops', or None for one that warms up."""
        place = self.done - self.warmup
        return None if place < 0 else "time" if place < self.steps else (*KINDS, None)[min(place - self.steps + 1, 3)]

    @property
    def finished(self) -> bool:
        """Whether all that was to be measured is."""
        return self.done == self.warmup + self.steps + 2

    def first_step_of(self, kind: str) -> int:
        """The number, from 1, of the first optimizer step that is for that."""
        return self.warmup + 1 + (0 if kind == "time" else self.steps + KINDS.index(kind) - 1)

    # ---- hooks; none is taken off while torch goes through them

    def _before_forward(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.finished or not torch.is_grad_enabled():
            return
        self._mode = model.training if not self.done else self._mode
        if model.training != self._mode:
            return  # an evaluation between two steps
        examples, tokens = subject.sizes(args, kwargs)
        shape = (self.batch or subject.need_batch(examples), self.seq or tokens)
        if not self._open:
            self._open = True
            self._look_for_autocast()
            self.instruments.begin(self.kind, (args, kwargs))
        self.instruments.forward(shape, self._within_step)

    def _look_for_autocast(self) -> None:
        """In the first step, note autocast's dtype where it is active around the forward or within it (there by accelerate).

        Where something is compiled, other code's autocast within the forward is not seen.
        """
        if self.done:
            return
        device = self.instruments.device.type

        def look(*_: Any) -> None:
            if torch.is_autocast_enabled(device):
                self.autocast = torch.get_autocast_dtype(device)

        look()
        self.autocast = self.autocast or subject.autocast_within(self.model)
        if self.autocast is None and not loop_start.compiles():
            self._first = nn.modules.module.register_module_forward_pre_hook(look)
            self._handles.append(self._first)

    def _after_forward(self, _: nn.Module, __: Any, outputs: Any) -> None:
        self.instruments.outputs(outputs)

    def _before_step(self, *_: Any) -> None:
        self._within_step = True

    def _after_step(self, *_: Any) -> None:
        self._within_step = False
        if not self._open:
            self.unled += 1
            return
        self._open = False
        if self._first is not None:
            self._first.remove()
        self.instruments.end(self.kind)
        self.done += 1
        self.instruments.step_is_next(self.kind)
        if self.finished:
            self._look_at_gpu(self.instruments.device)
            _let_go(self)

    def _look_at_gpu(self, device: torch.device) -> None:
        if device.type == "cuda":
            self.gpu.append(gpu.conditions(torch.cuda.current_device() if device.index is None else device.index))

    def _detach(self) -> None:
        """Hooks and instruments off."""
        _let_go(self)
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.instruments.abandon()


def _let_go(one: profile) -> None:
    """Another may be started."""
    global _active
    if _active and _active() is one:
        _active = None
