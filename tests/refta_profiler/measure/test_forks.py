"""A forked process answers what a fresh one does, ends as one, and where none can be forked a fresh one is started."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace

import pytest
from live_processes import gone
from real_steps import tiny

from refta_profiler import models
from refta_profiler.measure import forks, isolate
from refta_profiler.measure.executors import Process, local
from refta_profiler.measure.forks import Forks

POINT = tiny("roberta-tiny", "refta/shared")
ASKED = {"warmup": 1, "steps": 1, "passes": ("time", "memory"), "instruments": []}

# a nursery whose workers write down what they are and what they have, and do what the point's optimizer says
WORKERS = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
from refta_profiler.measure import nursery, worker
from refta_profiler.plan import Point

def weights(model):
    return hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in model.state_dict().values())).hexdigest()

def main(arguments, build=worker.models.build):
    request = json.loads(Path(arguments[0]).read_text())
    nursery.orphans.die_with_parent(request["parent"])
    point = Point.from_json(json.dumps(request["point"]))
    seen = Path(os.environ["SEEN"])
    seen.write_text(str(os.getpid()))
    if point.optimizer == "hangs":
        time.sleep(600)
    if point.optimizer == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if point.optimizer == "crashes":
        print("first", file=sys.stderr)
        raise SystemExit("the reason")
    import torch
    from refta_profiler import models, workload
    before = torch.get_num_threads()
    model = build(point, "cpu")
    found = {"weights": weights(model), "random": torch.rand(3).tolist(), "threads": before, "omp": os.environ["OMP_NUM_THREADS"]}
    found["summed"] = torch.ones(2_000_000).sum().item()  # by all threads
    adapted = workload.attach(model, point)
    found |= {"adapted": weights(model), "trained": adapted.trainable_parameters}
    found["loss"] = model(**models.batch(point, "cpu")).loss.item()
    Path(arguments[1]).write_text(json.dumps({**found, "parent": os.getppid(), "drawn": drawn}))
    return 0

def counted(*arguments, build=nursery.models.build):
    global drawn
    drawn += 1
    return build(*arguments)

drawn, nursery.models.build, worker.main = 0, counted, main
"""
SERVE = "raise SystemExit(nursery.main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(forks, "DEVICES", ("cpu",))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))


@pytest.fixture(scope="module")
def shared():
    """A nursery of which the workers do what WORKERS says."""
    found = Forks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forks, "COMMAND", ("-c", WORKERS + SERVE))
        patch.setenv("OMP_NUM_THREADS", "2")
        found._started()
    yield found
    found.close()


@pytest.fixture
def mortal(monkeypatch):
    """Another one, for a test that ends it."""
    monkeypatch.setattr(forks, "COMMAND", ("-c", WORKERS + SERVE))
    found = Forks()
    yield found
    found.close()


def process(point=POINT, limit_s=300.0, **more):
    return Process(point, 1, "cpu", limit_s, ASKED, {}, "warn", **more)


def said_fresh(tmp_path, point):
    """What a worker of WORKERS says that is started and not forked."""
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    request.write_text(json.dumps({"parent": os.getpid(), "point": asdict(point)}))
    subprocess.run([sys.executable, "-c", WORKERS + f"main([{str(request)!r}, {str(answer)!r}])"], check=True)
    return json.loads(answer.read_text())


def test_a_forked_process_measures_what_a_fresh_one_does():
    here = local.Local()
    here.submit(process(), local.HERE)
    [(_, _, forked)] = here.ended()
    server = here.forks.server
    here.close()
    assert server.returncode is not None and here.forks.server is None
    fresh = isolate.measure(POINT, "cpu", limit_s=300, **ASKED)
    assert forked["where"].pop("forked") is True
    assert "forked" not in fresh["where"]
    assert forked["where"] == fresh["where"]
    assert forked["values"] == fresh["values"]
    assert forked["values"]["static_bytes"] > 0
    assert forked["afterwards"].keys() == fresh["afterwards"].keys()
    assert forked.keys() == fresh.keys()


@pytest.mark.parametrize("label", ["refta/shared", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_forked_process_has_the_weights_and_draws_the_numbers_of_a_fresh_one(shared, tmp_path, label):
    point = tiny("roberta-tiny", label)
    first, second, fresh = shared.measure(process(point)), shared.measure(process(point)), said_fresh(tmp_path, point)
    assert first["parent"] == second["parent"] == shared.server.pid
    for one in (first, second, fresh):
        del one["parent"], one["drawn"]
    assert first["threads"] == 2
    assert first == second == fresh


def test_a_model_is_drawn_once_for_points_that_share_it(shared, tmp_path):
    same = tiny("roberta-tiny", "lora", precision="amp-bf16", batch=4, checkpointing=True)
    other = replace(POINT, seed=1)
    answers = [shared.measure(process(one)) for one in (POINT, same, POINT)]
    assert len({(one["drawn"], one["weights"]) for one in answers}) == 1
    answers += [shared.measure(process(one)) for one in (other, other, POINT)]
    assert [one["drawn"] - answers[0]["drawn"] for one in answers[3:]] == [1, 1, 2]
    assert [one["weights"] == answers[0]["weights"] for one in answers[3:]] == [False, False, True]


class Watched(dict):
    """A mapping, or a point's fields, that writes down what is read of it."""

    def __init__(self, values, read, name=""):
        super().__init__(values)
        self.read, self.name = read, name

    def __getitem__(self, key):
        self.read.add(f"{self.name}{key}")
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(f"{self.name}{key}")
        return super().get(key, default)


class WatchedPoint:
    def __init__(self, point, read):
        held = {field.name: getattr(point, field.name) for field in fields(point)}
        self._held = {key: Watched(one, read, f"{key}.") if isinstance(one, dict) else one for key, one in held.items()}
        self._read = read

    def __getattr__(self, name):
        if not isinstance(self._held[name], dict):
            self._read.add(name)
        return self._held[name]


@pytest.mark.parametrize("model", [pytest.param("vit-tiny", marks=pytest.mark.slow), "roberta-tiny", "llama-tiny"])
def test_what_a_model_is_made_from_is_what_making_it_reads(model):
    made, said = set(), set()
    models.build(WatchedPoint(tiny(model, "head"), made), "cpu")
    models.made_from(WatchedPoint(tiny(model, "head"), said))
    assert made == said
    assert "batch" not in made and "seed" in made


def test_threads_and_environment_are_what_the_process_is_given(shared):
    found = shared.measure(process(threads=3))
    assert (found["threads"], found["omp"]) == (3, "3")


@pytest.mark.parametrize(
    ("does", "status", "note"),
    [("killed", "error", "killed (signal 9), not by the kernel"), ("crashes", "error", "code 1: SystemExit: the reason")],
)
def test_a_dead_process_is_a_failure_and_the_next_one_is_forked(shared, does, status, note):
    failure = shared.measure(process(replace(POINT, optimizer=does)))["failure"]
    assert (failure["status"], note in failure["note"]) == (status, True)
    server = shared.server.pid
    assert shared.measure(process())["parent"] == server


def test_a_process_that_takes_too_long_is_killed_and_the_next_one_is_forked(shared, tmp_path):
    server = shared.measure(process())["parent"]
    failure = shared.measure(process(replace(POINT, optimizer="hangs"), limit_s=1.0))["failure"]
    assert failure == {"status": "error", "note": "took longer than 1 s", "late": True, "limit_s": 1.0}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "seen").read_text()), 0)
    assert shared.measure(process())["parent"] == server


@pytest.mark.slow
def test_a_late_process_that_cannot_be_ended_has_had_its_time(mortal, monkeypatch):
    received = forks.received
    told = iter([received])

    def silent(connection, limit_s):
        return next(told, lambda *_: (_ for _ in ()).throw(TimeoutError()))(connection, limit_s)

    monkeypatch.setattr(forks, "received", silent)
    failure = mortal.measure(process(replace(POINT, optimizer="hangs"), limit_s=20.0))["failure"]
    assert failure == {"status": "error", "note": "took longer than 20 s", "late": True, "limit_s": 20.0}
    assert mortal.lost and mortal.server is None


@pytest.mark.slow
def test_processes_of_another_round_are_not_clones_of_the_same_one(mortal):
    first, again = (mortal.measure(process())["parent"] for _ in range(2))
    second = mortal.measure(replace(process(), number=2))["parent"]
    assert first == again != second
    assert not mortal.lost


def interrupted(seen):
    while not seen.exists() or not seen.read_text():
        time.sleep(0.01)
    raise KeyboardInterrupt


def test_an_interruption_ends_both_and_goes_on_up(mortal, monkeypatch, tmp_path):
    seen = tmp_path / "seen"
    poll = forks.Connection.poll
    waits = lambda connection, limit_s: interrupted(seen) if mortal.running else poll(connection, limit_s)  # noqa: E731
    monkeypatch.setattr(forks.Connection, "poll", waits)
    with pytest.raises(KeyboardInterrupt):
        mortal.measure(process(replace(POINT, optimizer="hangs")))
    assert mortal.server is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.read_text()), 0)


def test_where_the_nursery_dies_fresh_processes_are_started_and_say_why(mortal, monkeypatch):
    mortal.measure(process())
    mortal.server.kill()
    monkeypatch.setattr(isolate, "measure", lambda point, device, **asked: {"fresh": asked["limit_s"]})
    words = f"{forks.NOT_FORKED}: what it would be forked from has ended, with code -9"
    assert local.run(process(), mortal) == {"fresh": 300.0, "not_forked": words}
    assert mortal.server is None
    monkeypatch.setattr(forks.subprocess, "Popen", lambda *_, **__: pytest.fail("started again"))
    assert local.run(process(), mortal) == {"fresh": 300.0, "not_forked": words}
    assert local.run(process(replace(POINT, weights="pretrained")), mortal) == {"fresh": 300.0}  # never to be forked


def test_a_process_that_was_lost_with_its_nursery_has_the_rest_of_its_time(monkeypatch):
    found, clock, given = Forks(), iter([1000.0, 1200.0]), []

    def lost(*_):
        found.running = True
        raise EOFError

    def late(point, device, **asked):
        given.append(asked["limit_s"])
        return isolate.late(asked["limit_s"])

    monkeypatch.setattr(found, "_measure", lost)
    monkeypatch.setattr(forks.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(isolate, "measure", late)
    answer = local.run(process(), found)
    assert given == [100.0]
    words = "took longer than 300 s (200 s of them in a forked process that was lost)"
    assert answer["failure"] == {"status": "error", "note": words, "late": True, "limit_s": 100.0}
    assert answer["not_forked"].endswith("what it would be forked from has ended")


@pytest.mark.parametrize(
    ("script", "limit_s", "why"),
    [
        ("raise SystemExit('no such library')", 300.0, "has ended, with code 1: no such library"),
        ("import time; time.sleep(600)", 1.0, "did not answer in time"),
        pytest.param(
            WORKERS + "nursery.models.build = lambda *_: os._exit(9)\n" + SERVE, 300.0, "has ended, with code 9", marks=pytest.mark.slow
        ),
        (WORKERS + "worker.main = lambda *_: nursery.NO_GPU\n" + SERVE, 300.0, "CUDA does not start in a process that is forked here"),
    ],
    ids=["cannot start", "never gets ready", "dies as it draws", "has touched CUDA"],
)
def test_a_nursery_that_is_of_no_use_is_not_asked_again(monkeypatch, script, limit_s, why):
    monkeypatch.setattr(forks, "COMMAND", ("-c", script))
    found = Forks()
    assert found.measure(process(limit_s=limit_s)) is None
    assert found.lost and found.server is None
    assert why in found.why


def test_weights_that_cannot_be_drawn_there_are_left_to_a_fresh_process(shared):
    assert shared.measure(process(replace(POINT, model="no-such-model"))) is None
    assert "no-such-model" in shared.why
    assert shared.measure(process())["parent"] == shared.server.pid


@pytest.mark.parametrize(
    "changes",
    [{"method": "python"}, {"weights": "pretrained"}, {"parallel": "ddp:2"}, {"allocator": "expandable_segments"}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_not_forked(monkeypatch, changes):
    assert forks.takes(process())
    assert not forks.takes(process(replace(POINT, **changes)))
    monkeypatch.setattr(forks, "DEVICES", ("cuda",))
    assert not forks.takes(process())


def test_nothing_is_left_where_the_driver_dies(tmp_path):
    """The driver is killed while a process runs that would go on for minutes."""
    point = asdict(replace(POINT, optimizer="hangs"))
    driver = f"""
import json
from refta_profiler.measure import forks
from refta_profiler.measure.executors import Process
from refta_profiler.plan import Point
forks.DEVICES, forks.COMMAND = ("cpu",), ("-c", {WORKERS + SERVE!r})
found = forks.Forks()
start = found._started
def started():
    server, connection = start()
    open({str(tmp_path / "server")!r}, "w").write(str(server.pid))
    return server, connection
found._started = started
found.measure(Process(Point.from_json({json.dumps(point)!r}), 1, "cpu", 300.0, {ASKED!r}, {{}}, "warn"))
"""
    child = subprocess.Popen([sys.executable, "-c", driver])
    seen = tmp_path / "seen"
    ends = time.monotonic() + 60
    while not (seen.exists() and seen.read_text()) and time.monotonic() < ends:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert gone(int((tmp_path / "server").read_text()))
    assert gone(int(seen.read_text()))


@pytest.mark.gpu
@pytest.mark.parametrize("label", ["refta/shared", "lora"])
def test_a_forked_process_measures_on_a_gpu_what_a_fresh_one_does(monkeypatch, label):
    monkeypatch.setattr(forks, "DEVICES", ("cuda",))
    point, found = tiny("roberta-tiny", label), Forks()
    asked = {**ASKED, "passes": isolate.ALL}
    forked = [found.measure(replace(process(point), device="cuda", asked=asked)) for _ in range(2)]
    found.close()
    assert not found.lost
    fresh = isolate.measure(point, "cuda", limit_s=300, **asked)
    assert [one["values"] for one in forked] == [fresh["values"]] * 2
