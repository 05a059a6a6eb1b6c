"""What is run on a node: a measuring process or a group of predictions, with the driver's versions or not at all."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refta_profiler import rates
from refta_profiler.measure import isolate, scratch, versions
from refta_profiler.measure.executors import EXECUTOR, Answer, Process
from refta_profiler.measure.executors.local import run
from refta_profiler.rates import Rates


def measure(process: Process, wanted: Mapping[str, str], place: str, node: str) -> Answer:
    """The answer of a fresh process on this node, with `where` it was measured and the `files` that instruments wrote, as bytes by name.

    place: the place's name. node: the cluster's own name of this node; '' where it is the machine's.
    """
    if words := versions.unlike(wanted, versions.here()):
        return unmeasured(f"node {platform.node()} has other versions than the driver: {words}", place, node)
    with scratch.folder() as folder:
        here = {name: folder / path.name for name, path in process.files.items()}
        found = located(run(dataclasses.replace(process, files=here)), place, node)
        return {**found, "files": {name: path.read_bytes() for name, path in here.items() if path.exists()}}


def unmeasured(note: str, place: str, node: str = "") -> Answer:
    """The answer where the cluster, and not the point, is to blame that there is none: an error now, and run again on resuming."""
    return located(isolate.failure("error", note, by=EXECUTOR), place, node)


def located(answer: Answer, place: str, node: str) -> Answer:
    """The answer with the node and device that it is from; a processor's threads are known from the measuring process alone."""
    known = {"device": place} if place.startswith("cuda: ") else {}
    here = platform.node()
    return {**answer, "where": {"node": here, **known, **answer.get("where", {}), "place": place, "cluster_node": node or here}}


def predict(call: Callable[[Any], Any], group: Sequence[Any], calibrations: Mapping[str, Rates | None]) -> Any:
    """What the call answers of the group, with the driver's calibrations, in one thread: it computes shapes, not numbers."""
    import torch

    torch.set_num_threads(1)
    rates.carry(calibrations)
    return call(group)


def ping() -> dict[str, Any]:
    """What this node is: its name, versions, and the processor or the GPUs that it has."""
    from refta_profiler.measure import environment, gpu

    names = gpu.names()
    found = {"cpu": environment.device_name("cpu"), "cuda": f"cuda: {names[0]}" if names else None}
    return {"node": platform.node(), "versions": versions.here(), **found}
