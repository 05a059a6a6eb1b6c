"""The nodes of a Ray cluster: what each is and has, and which of them can be used, asked once of every node that appears."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refta_profiler.measure import carried, versions

PATIENCE_S = 60.0  # for a node to say what it is: its first worker has to start and to fetch the code
CONNECT_S = 2.0
RESOURCES = {"cpu": "CPU", "cuda": "GPU"}


@dataclass(frozen=True)
class Node:
    """One node: its id and name in the cluster, how many CPUs and GPUs it offers, what these are, and why it is not used ('' if it is)."""

    id: str
    name: str
    counts: dict[str, int]
    devices: dict[str, str]
    fault: str

    def count(self, kind: str) -> int:
        """How many devices of that kind it offers."""
        return self.counts.get(kind, 0)

    def device(self, kind: str) -> str:
        """What its devices of that kind call themselves, e.g. 'cuda: NVIDIA H100 80GB HBM3'."""
        return self.devices.get(kind) or f"{kind}: unknown"

    def words(self) -> str:
        """'4 × cuda: NVIDIA L4, 16 × cpu: …', and why it is not used."""
        found = [f"{self.count(kind)} × {self.device(kind)}" for kind in ("cuda", "cpu") if self.count(kind)]
        return ", ".join(found or ["no device"]) + (f" (not used: {self.fault})" if self.fault else "")


class Nodes:
    """The nodes that are alive, as last seen."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.known: dict[str, Node] = {}
        self.all: list[Node] = []
        self.refresh()

    def refresh(self) -> None:
        """Who is there now; a node not seen before is asked what it is.

        Ray takes half a minute to notice that a node is gone and goes on sending tasks there: whether its port answers tells at once.
        """
        alive = {one["NodeID"]: one for one in self.ray.nodes() if one["Alive"] and answers(one)}
        self.known |= self.asked([one for name, one in alive.items() if name not in self.known])
        self.all = [self.known[name] for name in alive]

    def of(self, kind: str, device: str | None = None, *, least: int = 1) -> list[Node]:
        """The nodes that can be used and have at least so many such devices, by default of any name; those with most of them first."""
        found = [node for node in self.all if not node.fault and node.count(kind) >= least and device in (None, node.device(kind))]
        return sorted(found, key=lambda node: -node.count(kind))

    def usable(self) -> set[str]:
        """The ids of all nodes that can be used."""
        return {node.id for node in self.all if not node.fault}

    def words(self) -> str:
        """What every node has."""
        return "; ".join(f"node {node.name} has {node.words()}" for node in self.all) or "it has no nodes"

    def selector(self, nodes: Sequence[Node]) -> dict[str, str]:
        """What Ray is told so that a task goes to one of the nodes (without spaces: 2.60 ends the driver over one in a node's id)."""
        return {"ray.io/node-id": f"in({','.join(node.id for node in nodes)})"}

    def asked(self, found: Sequence[dict[str, Any]]) -> dict[str, Node]:
        """What the nodes say they are, all asked at once; of one that does not answer in time, that."""
        task = self.ray.remote(num_cpus=0, max_retries=0)(carried.ping)
        waiting = {one["NodeID"]: task.options(label_selector={"ray.io/node-id": one["NodeID"]}).remote() for one in found}
        if waiting:
            self.ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=PATIENCE_S)
        return {one["NodeID"]: self.node(one, waiting[one["NodeID"]]) for one in found}

    def node(self, found: dict[str, Any], reference: Any) -> Node:
        """The node of an entry of Ray's list, with what it answered."""
        counts = {kind: int(found["Resources"].get(name, 0)) for kind, name in RESOURCES.items()}
        name = f"{found['NodeManagerAddress']} ({found['NodeID'][:8]})"
        try:
            said = self.ray.get(reference, timeout=0)
        except self.ray.exceptions.GetTimeoutError:
            return Node(found["NodeID"], name, counts, {}, f"it did not say what it is within {PATIENCE_S:.0f} s")
        except self.ray.exceptions.RayError as error:
            return Node(found["NodeID"], name, counts, {}, f"it cannot run the driver's code: {str(error).strip().splitlines()[-1]}")
        unlike = versions.unlike(versions.here(), said["versions"])
        return Node(found["NodeID"], name, counts, {kind: said[kind] for kind in RESOURCES if said[kind]}, unlike)


def answers(found: dict[str, Any]) -> bool:
    """Whether the node of an entry of Ray's list answers."""
    return reachable(f"{found['NodeManagerAddress']}:{found['NodeManagerPort']}")


def reachable(address: str) -> bool:
    """Whether something answers at host:port."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return True
    except (OSError, ValueError):
        return False
