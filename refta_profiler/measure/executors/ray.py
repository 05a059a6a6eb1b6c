"""Processes spread over a Ray cluster: a task each, with a GPU or --cpus CPUs a rank, on nodes that have them and the driver's versions.

A process that is lost with its worker or its node is run again elsewhere, a few times; one that fails is a row. Nothing but Ray itself need
be shared: the code travels with the tasks, what instruments write comes back with the answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refta_profiler import devices, parallel
from refta_profiler.errors import HardwareError, ScenarioError, first_line
from refta_profiler.measure import carried, cluster, staging, versions
from refta_profiler.measure.executors import Answer, Place, Process, Settings
from refta_profiler.measure.isolate import failure
from refta_profiler.measure.ray_nodes import Node, Nodes, reachable
from refta_profiler.measure.ray_predictions import LOOK_S, Predictions
from refta_profiler.plan import Point

LOST = 3  # times that a process may be lost before its point is a row that says so
GONE_S = 10.0  # how long a cluster may not answer before it counts as gone


def make(settings: Settings) -> Ray:
    """Connected to the cluster: the one that was named, RAY_ADDRESS, or one that is started on this machine."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ScenarioError("--executor ray: the package ray is not installed; pip install 'refta-profiler[ray]'") from None
    return Ray(ray, settings)


@dataclass(frozen=True)
class Sent:
    """A process that was handed to Ray: for which place, which nodes (by id) it may run on, and whether it gets the whole of one."""

    process: Process
    place: Place
    nodes: frozenset[str]
    alone: bool


class Ray:
    """A cluster, connected; `ray` is the library."""

    name = "ray"

    def __init__(self, ray: Any, settings: Settings) -> None:
        self.ray = ray
        connect(ray, settings)
        self.gcs = ray.get_runtime_context().gcs_address
        self.nodes = Nodes(ray)
        self.device, self.cpus = "cpu", settings.cpus
        self.task = ray.remote(max_retries=0)(measure)
        self.waiting: dict[Any, Sent] = {}  # by the reference that its answer will have
        self.lost: Counter[tuple[str, int]] = Counter()

    def kind(self, wanted: str) -> str:
        """'cuda' where a node has a GPU and none else is wanted; HardwareError says what each node has."""
        kind = wanted if wanted != "auto" else "cuda" if self.nodes.of("cuda") else "cpu"
        if not self.nodes.of(kind, least=self.each(kind)):
            asked = f" with --cpus {self.cpus}" if self.each(kind) > 1 else ""
            raise HardwareError(f"--device {wanted}{asked}: no node of the Ray cluster can measure on it: {self.nodes.words()}")
        return kind

    def each(self, kind: str) -> int:
        """How many devices a rank computes on: one GPU, or as many CPUs as were asked for."""
        return 1 if kind == "cuda" else self.cpus

    def open(self, folder: Path, device: str) -> None:
        """Tasks ask for that kind of device from now on."""
        self.device = device

    def of(self, place: Place, ranks: int = 1) -> list[Node]:
        """The nodes of that place that take so many ranks; those with most devices first."""
        return self.nodes.of(self.device, place.name, least=ranks * self.each(self.device))

    @property
    def places(self) -> Sequence[Place]:
        """A place for all nodes whose devices are alike, those with most devices first."""
        found = self.nodes.of(self.device, least=self.each(self.device))
        names = list(dict.fromkeys(node.device(self.device) for node in found))
        return [Place(name, key_of(name, first=names[0])) for name in names]

    def refusal(self, point: Point, place: Place) -> str:
        """Why no node of that place takes the point's ranks."""
        ranks, found = parallel.world(point.parallel), self.of(place)
        if not found or self.of(place, ranks):
            return ""
        needed = ranks * self.each(self.device)
        return cluster.too_many(point, self.device, needed, found[0].name, found[0].count(self.device))

    def free(self, place: Place) -> int:
        """A rank for every device, and one more a node, so that none waits for the driver; none for a node that one process has alone."""
        taken = self.taken()
        found = [node for node in self.of(place) if node.id not in taken]
        running = sum(sent.process.ranks for sent in self.waiting.values() if sent.place.name == place.name and not sent.alone)
        return sum(node.count(self.device) // self.each(self.device) for node in found) + len(found) - running

    def taken(self) -> set[str]:
        """The ids of the nodes that one process gets alone."""
        return {name for sent in self.waiting.values() if sent.alone for name in sent.nodes}

    def submit(self, process: Process, place: Place) -> None:
        """A task on any node of that place."""
        self.send(process, place, alone=False)

    def send(self, process: Process, place: Place, *, alone: bool) -> None:
        """A task on a node of that place that has enough devices; `alone`: with all that one of them has."""
        found = self.of(place, process.ranks)
        if not found:
            raise HardwareError(f"the last node with {place.name} is gone: {self.nodes.words()}")
        taken = self.taken()
        found = [node for node in found if node.id not in taken] or found
        found = found[:1] if alone else found
        amount = found[0].count(self.device) if alone else process.ranks * self.each(self.device)
        wanted = {"num_gpus": amount, "num_cpus": 0} if self.device == "cuda" else {"num_cpus": amount}
        asked = dataclasses.replace(process, threads=self.cpus if self.device == "cpu" else None)
        task = self.task.options(**wanted, label_selector=self.nodes.selector(found))
        reference = task.remote(asked, versions.here(), place.name)
        self.waiting[reference] = Sent(process, place, frozenset(node.id for node in found), alone)

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
        sent = self.waiting.pop(reference)
        process, place, errors = sent.process, sent.place, self.ray.exceptions
        try:
            return process, place, self.ray.get(reference)
        except errors.OutOfMemoryError as error:
            return self.out_of_memory(sent, error)
        except errors.RuntimeEnvSetupError as error:
            raise HardwareError(f"a node could not be set up with the driver's code: {first_line(error)}") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, HardwareError):  # a GPU that others use, where the scenario refuses that
                raise error.cause from error
            return process, place, carried.unmeasured(first_line(error.cause), place.name)
        except errors.RayError as error:  # its worker or its node is gone, or with it the answer
            return self.again(sent, error)

    def out_of_memory(self, sent: Sent, error: Exception) -> tuple[Process, Place, Answer] | None:
        """None, the process submitted anew with a node to itself: Ray kills the newest of a node's tasks, whichever filled the memory.

        An answer that says so where it had one.
        """
        if not sent.alone:
            self.refresh()
            self.send(sent.process, sent.place, alone=True)
            return None
        note = f"killed by Ray, as happens when a node's memory runs out; it had the node to itself ({first_line(error)})"
        return sent.process, sent.place, carried.located(failure("oom", note), sent.place.name, "")

    def again(self, sent: Sent, error: Exception) -> tuple[Process, Place, Answer] | None:
        """None, the process submitted anew; after a few times an answer that says that it is lost again and again."""
        process, place = sent.process, sent.place
        self.refresh()
        self.lost[process.point.id, process.number] += 1
        if self.lost[process.point.id, process.number] < LOST:
            self.send(process, place, alone=sent.alone)
            return None
        note = f"lost {LOST} times with the worker or node that ran it; the last time: {first_line(error)}"
        return process, place, carried.unmeasured(note, place.name)

    def look(self) -> None:
        """Processes none of whose nodes is left are submitted anew; HardwareError where the cluster, or the last node for one, is gone."""
        self.refresh()
        left = self.nodes.usable()
        for reference in [reference for reference, sent in self.waiting.items() if not sent.nodes & left]:
            sent = self.waiting.pop(reference)
            self.ray.cancel(reference)
            self.send(sent.process, sent.place, alone=sent.alone)

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

    def spread(self, call: Callable[[Any], Any], groups: Sequence[Any]) -> Iterator[tuple[Any, Any]] | None:
        """Every group with what the call answers, a task with one CPU each; None where no node offers a CPU: this machine's do it."""
        return Predictions(self.ray, self.nodes, call).over(groups, self.refresh) if self.nodes.of("cpu") else None

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
