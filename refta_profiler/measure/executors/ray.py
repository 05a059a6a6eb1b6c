"""Processes spread over a Ray cluster: a task each, with one GPU or one CPU, on nodes that have the device and the driver's versions.

A process that is lost with its worker or its node is run again elsewhere, a few times; one that fails is a row. Nothing but Ray itself need
be shared: the code travels with the tasks, what instruments write comes back with the answers.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from refta_profiler import devices, rates
from refta_profiler.errors import HardwareError, ScenarioError, first_line
from refta_profiler.measure import carried, staging, versions
from refta_profiler.measure.executors import Answer, Place, Process, Settings
from refta_profiler.measure.isolate import failure
from refta_profiler.measure.ray_nodes import Nodes, reachable

LOST = 3  # times that a process may be lost before its point is a row that says so
LOOK_S = 1.0  # how long to wait for an answer before the nodes are looked at
GONE_S = 10.0  # how long a cluster may not answer before it counts as gone


def make(settings: Settings) -> Ray:
    """Connected to the cluster: the one that was named, RAY_ADDRESS, or one that is started on this machine."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ScenarioError("--executor ray: the package ray is not installed; pip install 'refta-profiler[ray]'") from None
    return Ray(ray, settings)


class Ray:
    """A cluster, connected; `ray` is the library."""

    name = "ray"

    def __init__(self, ray: Any, settings: Settings) -> None:
        self.ray = ray
        connect(ray, settings)
        self.gcs = ray.get_runtime_context().gcs_address
        self.nodes = Nodes(ray)
        self.device = "cpu"
        self.task: Any = None  # made when the device is known
        self.waiting: dict[Any, tuple[Process, Place]] = {}  # by the reference that its answer will have
        self.lost: Counter[tuple[str, int]] = Counter()

    def kind(self, wanted: str) -> str:
        """'cuda' where a node has a GPU and none else is wanted; HardwareError says what each node has."""
        kind = wanted if wanted != "auto" else "cuda" if self.nodes.of("cuda") else "cpu"
        if not self.nodes.of(kind):
            raise HardwareError(f"--device {wanted}: no node of the Ray cluster can measure on it: {self.nodes.words()}")
        return kind

    def open(self, folder: Path, device: str) -> None:
        """Tasks ask for that kind of device from now on."""
        self.device = device
        amount = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": 1}
        self.task = self.ray.remote(**amount, max_retries=0)(measure)

    @property
    def places(self) -> Sequence[Place]:
        """A place for all nodes whose devices are alike, those with most devices first."""
        names = list(dict.fromkeys(node.device(self.device) for node in self.nodes.of(self.device)))
        return [Place(name, key_of(name, first=names[0])) for name in names]

    def free(self, place: Place) -> int:
        """A process for every device, and one more a node, so that none waits for the driver."""
        found = self.nodes.of(self.device, place.name)
        running = sum(where.name == place.name for _, where in self.waiting.values())
        return sum(node.count(self.device) for node in found) + len(found) - running

    def submit(self, process: Process, place: Place) -> None:
        """A task on any node of that place."""
        found = self.nodes.of(self.device, place.name)
        if not found:
            raise HardwareError(f"the last node with {place.name} is gone: {self.nodes.words()}")
        reference = self.task.options(label_selector=self.nodes.selector(found)).remote(process, versions.here(), place.name)
        self.waiting[reference] = process, place

    def ended(self) -> Iterator[tuple[Process, Place, Answer]]:
        """What has ended; what was lost is submitted again."""
        while self.waiting:
            ready, _ = self.ray.wait(list(self.waiting), timeout=LOOK_S)
            if not ready:
                self.look()
                continue
            found = [one for reference in ready for one in [self.collect(reference)] if one]
            if found:
                yield from found
                return

    def collect(self, reference: Any) -> tuple[Process, Place, Answer] | None:
        """The answer; a row's reason where the node's memory ran out or the process was lost too often; None where it is run again."""
        process, place = self.waiting.pop(reference)
        errors = self.ray.exceptions
        try:
            return process, place, self.ray.get(reference)
        except errors.OutOfMemoryError as error:
            note = f"killed by Ray, as happens when a node's memory runs out ({first_line(error)})"
            return process, place, carried.located(failure("oom", note), place.name, "")
        except errors.RuntimeEnvSetupError as error:
            raise HardwareError(f"a node could not be set up with the driver's code: {first_line(error)}") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, HardwareError):  # a GPU that others use, where the scenario refuses that
                raise error.cause from error
            return process, place, carried.located(failure("error", first_line(error.cause)), place.name, "")
        except errors.RayError as error:  # its worker or its node is gone, or with it the answer
            return self.again(process, place, error)

    def again(self, process: Process, place: Place, error: Exception) -> tuple[Process, Place, Answer] | None:
        """None, the process submitted anew; after a few times an answer that says that it is lost again and again."""
        self.refresh()
        self.lost[process.point.id, process.number] += 1
        if self.lost[process.point.id, process.number] < LOST:
            self.submit(process, place)
            return None
        note = f"lost {LOST} times with the worker or node that ran it; the last time: {first_line(error)}"
        return process, place, carried.located(failure("error", note), place.name, "")

    def look(self) -> None:
        """The nodes that there are now; HardwareError where the cluster, or the last node that a process waits for, is gone."""
        self.refresh()
        for place in {where.name for _, where in self.waiting.values()}:
            if not self.nodes.of(self.device, place):
                raise HardwareError(f"the last node with {place} is gone: {self.nodes.words()}")

    def refresh(self) -> None:
        """The nodes asked anew, of a cluster that answers: Ray itself waits a minute for one that does not and then ends the driver."""
        deadline = time.monotonic() + GONE_S
        while not reachable(self.gcs):
            if time.monotonic() > deadline:
                raise HardwareError(f"the Ray cluster at {self.gcs} has not answered for {GONE_S:.0f} s")
            time.sleep(LOOK_S)
        self.nodes.refresh()

    def withdraw(self, unwanted: Callable[[Process], bool]) -> list[Process]:
        """None: hardly more are handed over than run."""
        return []

    def spread(self, call: Callable[[Any], Any], groups: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Every group with what the call answers, a task with one CPU each; so many at once that no node waits and no answer piles up."""
        task = self.ray.remote(num_cpus=1, max_retries=LOST)(carried.predict)
        found = self.nodes.of("cpu")
        task = task.options(label_selector=self.nodes.selector(found))
        known = self.ray.put({name: rates.of(name) for name in devices.names()})
        most = 2 * max(1, sum(node.count("cpu") for node in found))
        rest, waiting = iter(groups), {}
        while True:
            while len(waiting) < most and (group := next(rest, None)) is not None:
                waiting[task.remote(call, group, known)] = group
            if not waiting:
                return
            ready, _ = self.ray.wait(list(waiting), timeout=LOOK_S)
            if not ready:
                self.look()
            for reference in ready:
                yield waiting.pop(reference), self.ray.get(reference)

    def describe(self) -> dict[str, Any]:
        """The cluster's address and nodes."""
        found = "; ".join(place.name for place in self.places)
        return {"executor": self.name, "device": found, "address": self.gcs, "nodes": {node.name: node.words() for node in self.nodes.all}}

    def close(self) -> None:
        """Disconnected: Ray ends what this driver's tasks still do, and a cluster of its own. One that is gone is left alone."""
        if reachable(self.gcs):
            self.ray.shutdown()


def measure(process: Process, wanted: dict[str, str], place: str) -> Answer:
    """On a node: the answer of a fresh process, with what the cluster calls the node."""
    ray = importlib.import_module("ray")
    take_priority()
    return carried.measure(process, wanted, place, node_name(ray))


def node_name(ray: Any) -> str:
    """What this node is called in the rows: its address and the start of its id, since one machine may be several nodes."""
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def take_priority() -> None:
    """A task measures at the usual priority, where the system allows that: Ray starts its workers at a low one (nice 15)."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def connect(ray: Any, settings: Settings) -> None:
    """Ray initialised, the code for its tasks handed over; HardwareError where no cluster answers."""
    named = settings.address or os.environ.get("RAY_ADDRESS") or ""
    if re.fullmatch(r"[^/]+:\d+", named) and not reachable(named):  # Ray itself would try for minutes
        raise HardwareError(f"--executor ray: no Ray cluster answers at {named}")
    with tempfile.TemporaryDirectory(prefix="refta-profiler-") as folder:
        staging.stage(settings.own_modules, settings.model, Path(folder))
        try:
            ray.init(address=settings.address, runtime_env={"working_dir": folder}, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            where = f"at {named}" if named else "could be started here"
            raise HardwareError(f"--executor ray: no Ray cluster that can be used {where}: {first_line(error)}") from error


def key_of(name: str, *, first: str) -> str:
    """What rows call such a device: a GPU by its key, the first kind of processor `cpu`, another by its own name."""
    kind, _, model = name.partition(": ")
    return devices.named_device(model) if kind == "cuda" else "cpu" if name == first else name.lower()
