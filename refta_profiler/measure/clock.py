"""The phases of one step of a loop that is not ours: told when the forward, the backward and the step begin and end, it adds up seconds."""

from __future__ import annotations

from collections.abc import Callable

from refta_profiler.workload import PHASES


class Clock:
    """Seconds of forward, backward and optimizer of one step, from its first forward on.

    What lies between a backward and the next forward (loading data) counts for no phase; what lies between the last backward and the
    end of the optimizer's step (clipping) is the optimizer's, as in `workload.training_step`.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._started = self._last = now()
        self._phase = "forward"
        self.tells_phases = True  # False where the optimizer calls the loss itself (a closure), between work of its own
        self._spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)

    def forward(self) -> None:
        """A forward begins."""
        if self._phase == "between":
            self._last, self._phase = self._now(), "forward"

    def backward(self) -> bool:
        """Whether a backward begins, for the first of its graph's nodes that says so."""
        if self._phase == "backward":
            return False
        now = self._now()
        if self._phase == "forward":
            self._spent["forward"] += now - self._last
        self._last, self._phase = now, "backward"
        return True

    def backward_ends(self) -> None:
        """The backward is done."""
        now = self._now()
        self._spent["backward"] += now - self._last
        self._last, self._phase = now, "between"

    def step_ends(self) -> dict[str, float]:
        """Seconds of each phase; of the whole, under 'step', where they cannot be told apart."""
        now = self._now()
        if self._phase != "between" or not self.tells_phases:
            return {"step": now - self._started}
        self._spent["optimizer"] += now - self._last
        return self._spent
