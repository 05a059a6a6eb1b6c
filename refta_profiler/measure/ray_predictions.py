"""Predictions over the nodes of a Ray cluster: a task with one CPU a group of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refta_profiler import devices, rates
from refta_profiler.errors import HardwareError, first_line
from refta_profiler.measure import carried
from refta_profiler.measure.ray_nodes import Nodes

RETRIES = 3  # by Ray, of a task that is lost with its worker or its node
LOOK_S = 1.0  # how long to wait for an answer before the nodes are looked at
LOOK_EVERY_S = 10.0  # and how often they are while answers come, so that new nodes are used


class Predictions:
    """What a call answers of groups, each worked off on a node with a CPU; `ray` is the library."""

    def __init__(self, ray: Any, nodes: Nodes, call: Callable[[Any], Any]) -> None:
        self.ray, self.nodes, self.call = ray, nodes, call
        self.task = ray.remote(num_cpus=1, max_retries=RETRIES)(carried.predict)
        self.known = ray.put({name: rates.of(name) for name in devices.names()})
        self.waiting: dict[Any, tuple[Any, set[str]]] = {}  # group, and the nodes (by id) that it may run on, by its answer's reference

    def over(self, groups: Sequence[Any], refresh: Callable[[], None]) -> Iterator[tuple[Any, Any]]:
        """Every group with its answer, as they are ready; refresh: looks which nodes there are now."""
        rest, looked = iter(groups), time.monotonic()
        while True:
            while len(self.waiting) < self.most() and (group := next(rest, None)) is not None:
                self.send(group)
            if not self.waiting:
                return
            ready, _ = self.ray.wait(list(self.waiting), timeout=LOOK_S)
            for reference in ready:
                group, _ = self.waiting.pop(reference)
                yield group, self.answer(reference)
            if not ready or time.monotonic() - looked > LOOK_EVERY_S:
                refresh()
                self.send_stranded()
                looked = time.monotonic()

    def most(self) -> int:
        """So many at once that no node waits and no answer piles up."""
        return 2 * max(1, sum(node.count("cpu") for node in self.nodes.of("cpu")))

    def send(self, group: Any) -> None:
        """A task on any node with a CPU that there is now; HardwareError where none is left."""
        found = self.nodes.of("cpu")
        if not found:
            raise HardwareError(f"the last node with a CPU is gone: {self.nodes.words()}")
        reference = self.task.options(label_selector=self.nodes.selector(found)).remote(self.call, group, self.known)
        self.waiting[reference] = group, {node.id for node in found}

    def send_stranded(self) -> None:
        """Groups none of whose nodes is left are sent to others: Ray would wait for those for ever."""
        left = self.nodes.usable()
        for reference in [reference for reference, (_, nodes) in self.waiting.items() if not nodes & left]:
            group, _ = self.waiting.pop(reference)
            self.ray.cancel(reference)
            self.send(group)

    def answer(self, reference: Any) -> Any:
        """What the call answered or raised; HardwareError where Ray could not run it."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RuntimeEnvSetupError as error:
            raise HardwareError(f"a node could not be set up with the driver's code: {first_line(error)}") from error
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            raise HardwareError(f"a prediction was lost again and again with what ran it; the last time: {first_line(error)}") from error
