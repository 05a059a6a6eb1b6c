"""The phases of one step of a loop that is not ours: told when the forward, the backward and the step begin and end, it adds up seconds.

On a GPU, marks are events that it passes by itself, and the step is waited for at its end alone, as in `timing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from refta_profiler.measure.timing import REST
from refta_profiler.workload import PHASES


class HostWatch:
    """Marks of what the processor does: the seconds of its own clock."""

    runs_behind = False

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.mark = self.wait = now

    def seconds(self, begins: float, ends: float) -> float:
        """Seconds between two marks."""
        return ends - begins


class CudaWatch:
    """Marks of what a GPU does, which runs behind the host: events on whatever stream is current on it."""

    runs_behind = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """A mark here, which nothing waits for."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> float:
        """The time, once all that was begun is done."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def seconds(self, begins: torch.cuda.Event, ends: torch.cuda.Event) -> float:
        """Seconds between two marks that were waited for."""
        return begins.elapsed_time(ends) / 1e3


def watch(device: torch.device) -> HostWatch | CudaWatch:
    """What marks are made with on that device."""
    return CudaWatch(device) if device.type == "cuda" else HostWatch()


class Clock:
    """Seconds of forward, backward and optimizer of one step, from its first forward on.

    What lies between a backward and the next forward (loading data) counts for no phase; what lies between the last backward and the
    end of the optimizer's step (clipping) is the optimizer's, as in `workload.training_step`.
    """

    def __init__(self, watch: HostWatch | CudaWatch) -> None:
        self._watch: Any = watch
        self._started = watch.wait()
        self._first = self._last = watch.mark()
        self._phase = "forward"
        self.tells_phases = True  # False where the optimizer calls the loss itself (a closure), between work of its own
        self._spans: list[tuple[str, Any, Any]] = []  # phase, its beginning and its end

    def forward(self) -> None:
        """A forward begins."""
        if self._phase == "between":
            self._last, self._phase = self._watch.mark(), "forward"

    def backward(self) -> bool:
        """Whether a backward begins, for the first of its graph's nodes that says so."""
        if self._phase == "backward":
            return False
        self._pass("backward", ended="forward" if self._phase == "forward" else None)
        return True

    def backward_ends(self) -> None:
        """The backward is done."""
        self._pass("between", ended="backward")

    def _pass(self, phase: str, *, ended: str | None) -> None:
        """Another phase from here on; the one that ended, if one did, had begun at the last mark."""
        here = self._watch.mark()
        if ended is not None:
            self._spans.append((ended, self._last, here))
        self._last, self._phase = here, phase

    def step_ends(self) -> dict[str, float]:
        """Seconds of each phase, and of a GPU REST, as of `timing`; of the whole, under 'step', where they cannot be told apart."""
        told = self._phase == "between" and self.tells_phases
        self._pass("between", ended="optimizer")
        whole = self._watch.wait() - self._started
        if not told:
            return {"step": whole}
        spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        for phase, begins, ends in self._spans:
            spent[phase] += self._watch.seconds(begins, ends)
        return spent | ({REST: whole - self._watch.seconds(self._first, self._last)} if self._watch.runs_behind else {})
