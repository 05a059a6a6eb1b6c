"""The nodes of a cluster, on a Ray that is faked: what each has, which cannot be used and why, who is gone."""

from types import SimpleNamespace

import pytest

from refta_profiler.errors import HardwareError
from refta_profiler.measure import ray_nodes, versions
from refta_profiler.measure.executors import Settings
from refta_profiler.measure.executors.ray import Ray, key_of


class GetTimeoutError(Exception):
    pass


class RayError(Exception):
    pass


class Task:
    def __init__(self, said):
        self.said, self.node = said, None

    def options(self, label_selector):
        task = Task(self.said)
        task.node = label_selector["ray.io/node-id"]
        return task

    def remote(self):
        return self.said[self.node]


def library(*nodes):
    """A Ray with nodes (id, CPUs, GPUs, what it says of itself or the error that it is asked with)."""
    entries = [
        {"NodeID": name, "Alive": True, "NodeManagerAddress": "10.0.0.1", "NodeManagerPort": 1, "Resources": {"CPU": cpus, "GPU": gpus}}
        for name, cpus, gpus, _ in nodes
    ]

    def get(found, timeout=None):
        if isinstance(found, Exception):
            raise found
        return found

    return SimpleNamespace(
        nodes=lambda: entries,
        remote=lambda **options: lambda call: Task({name: said for name, _, _, said in nodes}),
        wait=lambda *_, **__: None,
        get=get,
        exceptions=SimpleNamespace(GetTimeoutError=GetTimeoutError, RayError=RayError),
    )


def says(cpu="cpu: x", cuda=None, **other):
    return {"node": "a", "versions": versions.here() | other, "cpu": cpu, "cuda": cuda}


@pytest.fixture(autouse=True)
def answering(monkeypatch):
    gone = set()
    monkeypatch.setattr(ray_nodes, "answers", lambda found: found["NodeID"] not in gone)
    return gone


def test_nodes_by_what_they_have():
    nodes = ray_nodes.Nodes(library(("aaaaaaaaaa", 4, 0, says()), ("bbbbbbbbbb", 8, 2, says(cuda="cuda: NVIDIA L4"))))
    assert [node.id for node in nodes.of("cpu")] == ["bbbbbbbbbb", "aaaaaaaaaa"]
    assert [node.id for node in nodes.of("cuda")] == ["bbbbbbbbbb"]
    assert nodes.of("cuda", "cuda: NVIDIA H100") == []
    assert nodes.selector(nodes.of("cpu")) == {"ray.io/node-id": "in(bbbbbbbbbb,aaaaaaaaaa)"}
    assert nodes.words() == ("node 10.0.0.1 (aaaaaaaa) has 4 × cpu: x; node 10.0.0.1 (bbbbbbbb) has 2 × cuda: NVIDIA L4, 8 × cpu: x")


def test_a_node_with_other_versions_is_not_used_and_says_so():
    nodes = ray_nodes.Nodes(library(("aaaaaaaaaa", 4, 0, says(torch="1.0"))))
    assert nodes.of("cpu") == []
    assert f"(not used: torch 1.0, the driver has {versions.here()['torch']})" in nodes.words()


@pytest.mark.parametrize(("error", "words"), [(GetTimeoutError(), "did not say what it is"), (RayError("a\nno torch"), "code: no torch")])
def test_a_node_that_cannot_say_what_it_is(error, words):
    nodes = ray_nodes.Nodes(library(("aaaaaaaaaa", 4, 0, error)))
    assert nodes.of("cpu") == []
    assert words in nodes.words()


def test_a_node_that_is_gone_is_no_longer_there_and_a_new_one_is_asked(answering):
    ray = library(("aaaaaaaaaa", 4, 0, says()), ("bbbbbbbbbb", 4, 0, says()))
    nodes = ray_nodes.Nodes(ray)
    answering.add("aaaaaaaaaa")
    nodes.refresh()
    assert [node.id for node in nodes.all] == ["bbbbbbbbbb"]
    answering.clear()
    nodes.refresh()
    assert len(nodes.all) == 2


def connected(ray):
    found = Ray.__new__(Ray)
    found.ray, found.nodes, found.device, found.waiting, found.cpus = ray, ray_nodes.Nodes(ray), "cpu", {}, 1
    return found


def test_the_kind_of_device_and_the_places_of_a_cluster():
    ray = connected(library(("aaaaaaaaaa", 4, 0, says()), ("bbbbbbbbbb", 8, 2, says(cuda="cuda: NVIDIA L4", cpu="cpu: y"))))
    assert [ray.kind(wanted) for wanted in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert [(place.name, place.key) for place in ray.places] == [("cpu: y", "cpu"), ("cpu: x", "cpu: x")]
    assert [ray.free(place) for place in ray.places] == [9, 5]
    ray.device = "cuda"
    assert [(place.name, place.key) for place in ray.places] == [("cuda: NVIDIA L4", "l4")]
    only_cpus = connected(library(("aaaaaaaaaa", 4, 0, says())))
    assert only_cpus.kind("auto") == "cpu"
    with pytest.raises(HardwareError, match=r"--device cuda: no node .* node 10.0.0.1 \(aaaaaaaa\) has 4 × cpu: x") as caught:
        only_cpus.kind("cuda")
    assert caught.value.exit_code == 3


def test_what_rows_call_a_device():
    assert key_of("cuda: NVIDIA H100 80GB HBM3", first="cuda: NVIDIA L4") == "h100"
    assert key_of("cpu: AMD EPYC", first="cpu: AMD EPYC") == "cpu"
    assert key_of("cpu: Intel Xeon", first="cpu: AMD EPYC") == "cpu: intel xeon"
    assert Settings().address is None


def test_an_address_without_anything_there():
    assert not ray_nodes.reachable("127.0.0.1:1")
    assert not ray_nodes.reachable("nonsense")
