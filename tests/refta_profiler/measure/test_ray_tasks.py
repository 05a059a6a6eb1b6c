"""Tasks of a Ray that is faked: what they ask for, nodes that come and go, memory that runs out, predictions."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from real_steps import tiny
from worker_answers import answer

from refta_profiler.errors import HardwareError
from refta_profiler.measure import carried, ray_nodes, ray_predictions, versions
from refta_profiler.measure.executors import EXECUTOR, Place, Process, Settings, ray

ASKED = {"warmup": 0, "steps": 1, "passes": [], "instruments": []}
POINT = tiny("roberta-tiny", "lora")


def error(name, *parents):
    return type(name, parents or (Exception,), {})


RayError = error("RayError")
ERRORS = {name: error(name, RayError) for name in ("OutOfMemoryError", "RuntimeEnvSetupError", "WorkerCrashedError")}


class GetTimeoutError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Task:
    """A task, or a reference to the answer that it will have."""

    def __init__(self, library, call, asked, arguments=()):
        self.library, self.call, self.asked, self.arguments = library, call, asked, arguments

    def options(self, **more):
        return Task(self.library, self.call, self.asked | more)

    def remote(self, *arguments):
        sent = Task(self.library, self.call, self.asked, arguments)
        if self.call is not carried.ping:
            self.library.sent.append(sent)
        return sent

    @property
    def nodes(self):
        return self.asked["label_selector"]["ray.io/node-id"].removeprefix("in(").rstrip(")").split(",")


class Library:
    """A Ray whose tasks end as the test says, by `answers`: what each reference gives, an error is raised."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, GetTimeoutError=GetTimeoutError, **ERRORS)

    def __init__(self, **nodes):
        self.there, self.sent, self.cancelled, self.answers = nodes, [], [], {}

    def nodes(self):
        return [
            {"NodeID": name, "Alive": True, "NodeManagerAddress": name, "NodeManagerPort": 1, "Resources": {"CPU": cpus, "GPU": gpus}}
            for name, (cpus, gpus) in self.there.items()
        ]

    def get_runtime_context(self):
        return SimpleNamespace(gcs_address="here:1")

    def remote(self, **asked):
        return lambda call: Task(self, call, asked)

    def put(self, content):
        return content

    def wait(self, references, **options):
        return [one for one in references if one in self.answers][:1], []

    def get(self, reference, timeout=None):
        if reference.call is carried.ping:
            cuda = "cuda: NVIDIA L4" if self.there[reference.nodes[0]][1] else None
            return {"node": "a", "versions": versions.here(), "cpu": "cpu: x", "cuda": cuda}
        found = self.answers.pop(reference)
        if isinstance(found, Exception):
            raise found
        return found

    def cancel(self, reference):
        self.cancelled.append(reference)


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    monkeypatch.setattr(ray_nodes, "answers", lambda found: True)
    monkeypatch.setattr(ray, "reachable", lambda address: True)
    monkeypatch.setattr(ray, "connect", lambda *_: None)


def connected(library, device="cpu", cpus=1):
    made = ray.Ray(library, Settings(cpus=cpus))
    made.open(None, device)
    return made


def process(parallel="", name="p"):
    return Process(replace(POINT, id=name, parallel=parallel), 1, "cpu", 60.0, ASKED, {}, "warn")


def test_a_rank_is_a_gpu_or_so_many_cpus_of_one_node():
    library = Library(small=(4, 1), large=(16, 8))
    gpus = connected(library, "cuda")
    (place,) = gpus.places
    gpus.submit(process("ddp:8"), place)
    gpus.submit(process(), place)
    assert [(one.asked["num_gpus"], one.asked["num_cpus"], sorted(one.nodes)) for one in library.sent] == [
        (8, 0, ["large"]),
        (1, 0, ["large", "small"]),
    ]
    assert library.sent[0].arguments[0].threads is None
    assert gpus.free(place) == 9 + 2 - 8 - 1
    cpus = connected(library, cpus=3)
    cpus.submit(process("ddp:2"), *cpus.places)
    assert (library.sent[-1].asked["num_cpus"], library.sent[-1].nodes, library.sent[-1].arguments[0].threads) == (6, ["large"], 3)
    assert cpus.free(*cpus.places) == (1 + 5) + 2 - 2


def test_ranks_that_no_node_takes_are_refused_by_what_the_largest_has():
    found = connected(Library(small=(4, 1), large=(16, 4)), "cuda")
    (place,) = found.places
    assert found.refusal(process("ddp:8").point, place) == "DDP over 8 ranks needs 8 GPUs of one node; the largest, large (large), has 4"
    assert found.refusal(process("ddp:4").point, place) == found.refusal(process().point, place) == ""
    found = connected(Library(small=(4, 1), large=(16, 4)), cpus=8)
    assert "needs 32 CPUs of one node; the largest, large (large), has 16" in found.refusal(process("fsdp:4").point, *found.places)


def test_a_cluster_whose_nodes_have_fewer_cpus_than_a_point_asks_for():
    found = connected(Library(small=(4, 0)), cpus=8)
    with pytest.raises(HardwareError, match="--device cpu with --cpus 8: no node of the Ray cluster can measure on it: node small"):
        found.kind("cpu")
    assert found.places == []


def test_memory_that_runs_out_is_the_points_that_had_the_node_to_itself():
    """Ray kills the newest task of a node, which need not be the one that filled its memory."""
    library = Library(large=(8, 0), small=(4, 0))
    found = connected(library)
    (place,) = found.places
    for name in ("innocent", "other"):
        found.submit(process(name=name), place)
    before = found.free(place)
    library.answers[library.sent[0]] = ERRORS["OutOfMemoryError"]("killed")
    assert found.collect(library.sent[0]) is None
    alone = library.sent[-1]
    assert (alone.asked["num_cpus"], alone.nodes, alone.arguments[0].threads) == (8, ["large"], 1)
    assert found.free(place) == before - 8  # its node is its own: 8 ranks and the one more, the process's own rank counted before
    found.submit(process(name="later"), place)
    assert library.sent[-1].nodes == ["small"]
    library.answers[alone] = answer()
    assert found.collect(alone)[2] == answer()

    library.answers[library.sent[1]] = ERRORS["OutOfMemoryError"]("killed")
    found.collect(library.sent[1])
    library.answers[library.sent[-1]] = ERRORS["OutOfMemoryError"]("the node is low on memory")
    process_of_it, _, told = found.collect(library.sent[-1])
    assert (process_of_it.point.id, told["failure"]["status"]) == ("other", "oom")
    assert "it had the node to itself (the node is low on memory)" in told["failure"]["note"]
    assert "by" not in told["failure"]


def test_a_process_that_is_lost_again_and_again_is_a_row_that_is_not_its_points():
    library = Library(a=(1, 0))
    found = connected(library)
    found.submit(process(), *found.places)
    for _ in range(ray.LOST - 1):
        library.answers[library.sent[-1]] = ERRORS["WorkerCrashedError"]("gone")
        assert found.collect(library.sent[-1]) is None
    library.answers[library.sent[-1]] = ERRORS["WorkerCrashedError"]("gone")
    told = found.collect(library.sent[-1])[2]["failure"]
    assert (told["status"], told["by"]) == ("error", EXECUTOR)
    assert told["note"] == "lost 3 times with the worker or node that ran it; the last time: gone"


def test_a_process_whose_nodes_are_all_gone_is_sent_to_one_that_came():
    library = Library(a=(1, 0))
    found = connected(library)
    found.submit(process(), *found.places)
    library.there = {"b": (1, 0)}
    found.look()
    assert library.cancelled == library.sent[:1]
    assert library.sent[-1].nodes == ["b"]
    library.there = {}
    with pytest.raises(HardwareError, match="the last node with cpu: x is gone"):
        found.look()


def test_places_are_of_what_rows_call_their_devices():
    assert connected(Library(a=(2, 1)), "cuda").places == [Place("cuda: NVIDIA L4", "l4")]


def predicted(library, groups, change=lambda: None):
    """What is predicted of the groups; after each wait in vain the test may change the cluster."""
    found = connected(library)
    wait = library.wait

    def waits(references, **options):
        ready = wait(references, **options)
        if not ready[0]:
            change()
        return ready

    library.wait = waits
    return found.spread(len, groups)


def answers_all(library):
    for one in library.sent:
        if one not in library.cancelled:
            library.answers.setdefault(one, len(one.arguments[1]))


def test_predictions_use_every_node_with_a_cpu():
    library = Library(a=(2, 0), b=(1, 1))
    assert list(predicted(library, [[1], [2, 3]], lambda: answers_all(library))) == [([1], 1), ([2, 3], 2)]
    assert {tuple(sorted(one.nodes)) for one in library.sent} == {("a", "b")}


def test_predictions_go_on_on_nodes_that_came_after_theirs_are_gone():
    library, changes = Library(a=(1, 0)), []

    def change():
        library.there = {"b": (1, 0)}
        changes.append(1)
        if len(changes) > 1:
            answers_all(library)

    assert list(predicted(library, [[1], [2, 3]], change)) == [([1], 1), ([2, 3], 2)]
    assert [one.nodes for one in library.sent] == [["a"], ["a"], ["b"], ["b"]]
    assert library.cancelled == library.sent[:2]


def test_new_nodes_are_used_while_answers_come(monkeypatch):
    monkeypatch.setattr(ray_predictions, "LOOK_EVERY_S", -1.0)
    library = Library(a=(1, 0))
    library.wait = lambda references, **options: answers_all(library) or (references[:1], [])
    found = predicted(library, [[number] for number in range(6)])
    next(found)
    library.there = {"a": (1, 0), "b": (1, 0)}
    assert len(list(found)) == 5
    assert sorted(library.sent[-1].nodes) == ["a", "b"]


def test_predictions_end_the_run_where_no_node_is_left():
    library = Library(a=(1, 0))
    with pytest.raises(HardwareError, match="the last node with a CPU is gone: it has no nodes"):
        list(predicted(library, [[1]], lambda: library.there.clear()))


def test_a_cluster_without_cpus_leaves_predictions_to_this_machine():
    assert predicted(Library(a=(0, 2)), [[1]]) is None


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (ERRORS["WorkerCrashedError"]("gone"), HardwareError, "lost again and again with what ran it; the last time: gone"),
        (ERRORS["RuntimeEnvSetupError"]("no space"), HardwareError, "could not be set up with the driver's code: no space"),
        (RayTaskError(ValueError("of the code's own")), ValueError, "of the code's own"),
    ],
)
def test_what_a_prediction_fails_with(raised, kind, words):
    library = Library(a=(1, 0))
    with pytest.raises(kind, match=words):
        list(predicted(library, [[1]], lambda: library.answers.update({library.sent[0]: raised})))
