"""`--executor ray` on a real cluster of two nodes: a node that is killed, a cluster that is, Ctrl-C, resuming, code that travels."""

import csv
import json
import os
import signal
import subprocess
from collections import Counter

import pytest
from two_nodes import ROOT, command, copy_with_fake_worker, environment, kill, wait_for

pytest.importorskip("ray", reason="the package ray is not installed: pip install 'refta-profiler[ray]'")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]

from ray.cluster_utils import Cluster  # noqa: E402

SCENARIO = """
name: sweep
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods:
  - {name: lora, rank: [1, 2]}
  - {name: refta, rank: [2, 3, 4, 5], order: [shared, reconstruct]}
batch: BATCHES
measure: {on_cpu: {batch: BATCHES, warmup: 0, steps: 1, repeats: 1, budget_s: 3000}}
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    return copy_with_fake_worker(tmp_path_factory.mktemp("code"))


@pytest.fixture
def cluster():
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@pytest.fixture
def scenario(tmp_path):
    def write(batches):
        path = tmp_path / "sweep.yaml"
        path.write_text(SCENARIO.replace("BATCHES", str(batches)))
        return path

    return write


def start(code, *arguments, **more):
    process = subprocess.Popen(
        command(*arguments), cwd=code, env=environment(code) | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process


def finish(process, seconds=300):
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        pytest.fail(f"not within {seconds} s: {errors}")
    return process.returncode, out, errors


def folder_of(out):
    (found,) = out.iterdir()
    return found


def rows(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["source"] == "measured"]


def processes(folder):
    return [json.loads(path.read_text()) for path in (folder / "processes").iterdir()]


def test_200_points_on_two_nodes_one_of_which_is_killed_midway_are_those_of_a_local_run(tmp_path, code, cluster, scenario):
    path = scenario(list(range(1, 21)))
    local = start(code, str(path), "--only", "measure", "--device", "cpu", "--out", str(tmp_path / "local"), FAKE_SECONDS="0.01")
    assert finish(local)[0] == 0

    more = ("--only", "measure", "--device", "cpu", "--out", str(tmp_path / "ray"), "--executor", "ray", "--address", cluster.address)
    spread = start(code, str(path), *more)
    wait_for(lambda: len(list(tmp_path.glob("ray/*/processes/*.json"))) >= 60, 120, "60 of 200 points")
    lost = cluster.worker_nodes.copy().pop()
    kill(lost)
    status, _, errors = finish(spread)
    assert status == 0, errors
    assert "measure: 200 points" in errors

    here, there = folder_of(tmp_path / "local"), folder_of(tmp_path / "ray")
    assert Counter(row["point"] for row in rows(here) if row["metric"] == "peak_allocated_bytes").most_common(1)[0][1] == 1
    kept = [(row["point"], row["status"], row["value"]) for row in rows(there) if row["metric"] == "peak_allocated_bytes"]
    assert len(kept) == len(set(kept)) == 200
    assert {one[0] for one in kept} == {row["point"] for row in rows(here)}
    assert Counter(status for _, status, _ in kept) == {"ok": 196, "oom": 4}  # LoRA at batches 19 and 20
    same = ("peak_allocated_bytes", "static_bytes", "step_seconds", "trainable_parameters")
    of_local, of_ray = (
        {(row["point"], row["metric"], row["value"]) for row in rows(one) if row["metric"] in same} for one in (here, there)
    )
    assert of_local == of_ray

    nodes = Counter(one["answer"]["where"]["cluster_node"] for one in processes(there))
    assert len(processes(there)) == sum(nodes.values()) == 200
    assert len(nodes) == 2
    assert nodes[next(name for name in nodes if lost.node_id.startswith(name.partition("(")[2].rstrip(")")))] < 100
    traced = list((there / "traces").iterdir())
    assert len(traced) == 200
    details = [json.loads(path.read_text()) for path in (there / "details").iterdir()]
    assert all("runtime_resources" in one["code"] for one in details if "code" in one)  # the code travelled
    assert len([one for one in details if one["where"]["cluster_node"]]) == 200


def test_ctrl_c_cancels_and_the_folder_is_gone_on_with(tmp_path, code, cluster, scenario):
    path = scenario([1, 2])
    more = ("--only", "measure", "--device", "cpu", "--executor", "ray", "--address", cluster.address)
    run = start(code, str(path), *more, "--out", str(tmp_path / "ray"), FAKE_SECONDS="1")
    wait_for(lambda: len(list(tmp_path.glob("ray/*/processes/*.json"))) >= 3, 60, "three points")
    run.send_signal(signal.SIGINT)
    status, _, errors = finish(run, 60)
    assert status == 130, errors
    folder = folder_of(tmp_path / "ray")
    assert f"--resume {folder} --executor ray --address {cluster.address}" in errors
    assert "Traceback" not in errors
    kept = len(list((folder / "processes").iterdir()))
    assert 3 <= kept < 20
    wait_for(lambda: not measuring(), 10, "the processes that were running end")
    status, _, errors = finish(start(code, str(folder / "scenario.yaml"), *more, "--resume", str(folder)))
    assert status == 0, errors
    assert f"measure: {20 - kept} points" in errors
    assert Counter(row["metric"] for row in rows(folder))["peak_allocated_bytes"] == 20


def measuring():
    """The measuring processes that run in what was staged for a Ray node."""
    found = subprocess.run(["pgrep", "-f", "refta_profiler.measure.worker"], capture_output=True, text=True, check=False).stdout.split()
    return [pid for pid in found if "runtime_resources" in folder_in_which_it_works(pid)]


def folder_in_which_it_works(pid):
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:  # it has just ended
        return ""


def test_a_cluster_that_goes_away_ends_the_run_with_how_to_go_on(tmp_path, code, scenario):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    more = ("--only", "measure", "--device", "cpu", "--executor", "ray", "--address", cluster.address)
    run = start(code, str(scenario([1, 2])), *more, "--out", str(tmp_path / "ray"), FAKE_SECONDS="1")
    wait_for(lambda: len(list(tmp_path.glob("ray/*/processes/*.json"))) >= 2, 60, "two points")
    kill(cluster.head_node)
    status, _, errors = finish(run, 90)
    folder = folder_of(tmp_path / "ray")
    assert status == 3, errors
    assert "the Ray cluster at" in errors
    assert f"Go on with: python -m refta_profiler run {folder / 'scenario.yaml'} --resume {folder}" in errors
    assert len(list((folder / "processes").iterdir())) >= 2
    status, _, errors = finish(start(code, str(folder / "scenario.yaml"), *more[:4], "--resume", str(folder), FAKE_SECONDS="0"))
    assert status == 0, errors
    assert Counter(row["metric"] for row in rows(folder))["peak_allocated_bytes"] == 20


def test_what_cannot_be_is_said_before_a_folder_is_made(tmp_path, code, cluster, scenario):
    path = scenario([1])
    more = ("--out", str(tmp_path / "ray"), "--executor", "ray")
    status, _, errors = finish(start(code, str(path), *more, "--address", cluster.address, "--device", "cuda"))
    assert status == 3
    assert "--device cuda: no node of the Ray cluster can measure on it: node" in errors
    assert "has 1 × cpu: " in errors
    status, _, errors = finish(start(code, str(path), *more, "--address", "127.0.0.1:1"))
    assert status == 3
    assert "no Ray cluster answers at 127.0.0.1:1" in errors
    assert not (tmp_path / "ray").exists()


OWN = """
import torch
from torch import nn
from scaling_of_mine import SCALE


class Scaled(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.full((base.weight.shape[0],), SCALE))

    def forward(self, x):
        return self.base(x) * self.scale


def scaled(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name in ("query", "value"):
                setattr(module, name, Scaled(child))
"""
REAL = """
name: real
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: h100
methods:
  - {name: python, call: "method_of_mine:scaled"}
  - {name: refta, rank: 5, order: [shared, reconstruct]}
batch: [1, 2]
measure: {on_cpu: {batch: [1, 2], warmup: 0, steps: 2, repeats: 2, budget_s: 3000}}
"""


@pytest.fixture
def mine(tmp_path):
    """A folder of a user's, with a method of their own, that the nodes do not work in."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "method_of_mine.py").write_text(OWN)
    (folder / "scaling_of_mine.py").write_text("SCALE = 1.0\n")
    (folder / "real.yaml").write_text(REAL)
    return folder


def test_real_processes_and_code_of_ones_own_on_two_nodes(tmp_path, cluster, mine):
    arguments = ("real.yaml", "--allow-code", "--device", "cpu", "--out", str(tmp_path / "ray"))
    run = subprocess.Popen(
        command(*arguments, "--executor", "ray", "--address", cluster.address),
        **{"cwd": mine, "env": environment(ROOT), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    )
    status, out, errors = finish(run, 400)
    assert status == 0, errors
    folder = folder_of(tmp_path / "ray")
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    peaks = {
        (row["label"], row["batch"], row["source"]): row
        for row in table
        if row["metric"] == "peak_allocated_bytes" and row["target"] == "cpu"
    }
    assert {row["status"] for row in peaks.values()} == {"ok"}
    for label in ("python/scaled", "refta/shared", "refta/reconstruct"):
        for batch in ("1", "2"):
            predicted, measured = (int(peaks[label, batch, source]["value"]) for source in ("dryrun", "measured"))
            assert measured == pytest.approx(predicted, rel=0.005)
    environments = json.loads((folder / "environment.json").read_text())
    assert environments["executor"] == "ray"
    assert len(environments["nodes"]) == 2
    assert {one["answer"]["where"]["nice"] for one in processes(folder)} == {0}
    assert "report: " in out


RANKS = """
name: ranks
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods: [{name: lora, rank: 2}]
parallel: [none, ddp:2, ddp:3]
batch: [1]
measure: {instruments: [], on_cpu: {batch: [1], warmup: 0, steps: 1, repeats: 1, budget_s: 3000}}
"""


@pytest.fixture
def two_cpus(cluster):
    """A cluster of which one node has two CPUs."""
    cluster.add_node(num_cpus=2)
    return cluster


def by_ranks(folder, source):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if (row["source"], row["metric"]) == (source, "peak_allocated_bytes")]
    return {row["parallel"]: row for row in found}


def test_ranks_get_as_many_cpus_of_one_node_and_need_what_is_predicted(tmp_path, two_cpus):
    (tmp_path / "ranks.yaml").write_text(RANKS)
    more = ("--device", "cpu", "--out", str(tmp_path / "ray"), "--executor", "ray", "--address", two_cpus.address)
    status, _, errors = finish(start(ROOT, str(tmp_path / "ranks.yaml"), *more), 400)
    assert status == 0, errors
    predicted, measured = (by_ranks(folder_of(tmp_path / "ray"), source) for source in ("dryrun", "measured"))
    assert {how: row["status"] for how, row in measured.items()} == {"": "ok", "ddp:2": "ok", "ddp:3": "skipped"}
    for how in ("", "ddp:2"):
        assert int(measured[how]["value"]) == pytest.approx(int(predicted[how]["value"]), rel=0.005)
    assert measured["ddp:3"]["note"].startswith("DDP over 3 ranks needs 3 CPUs of one node; the largest, ")
    assert measured["ddp:3"]["note"].endswith(", has 2")


def test_a_point_gets_the_cpus_and_threads_that_are_asked_for(tmp_path, code, two_cpus):
    (tmp_path / "ranks.yaml").write_text(RANKS)
    more = ("--only", "measure", "--device", "cpu", "--out", str(tmp_path / "ray"), "--executor", "ray", "--address", two_cpus.address)
    status, _, errors = finish(start(code, str(tmp_path / "ranks.yaml"), *more, "--cpus", "2"))
    assert status == 0, errors
    folder = folder_of(tmp_path / "ray")
    found = by_ranks(folder, "measured")
    assert {how: row["status"] for how, row in found.items()} == {"": "ok", "ddp:2": "skipped", "ddp:3": "skipped"}
    assert "DDP over 2 ranks needs 4 CPUs of one node" in found["ddp:2"]["note"]
    (details,) = (json.loads(path.read_text()) for path in (folder / "details").iterdir())
    assert details["threads"] == "2"


def test_predictions_over_nodes_are_those_of_this_machine(cluster, mine):
    def predicted(*more):
        arguments = [*command(), "real.yaml", "--allow-code", "--json", *more]
        arguments[arguments.index("run")] = "predict"
        done = subprocess.run(arguments, cwd=mine, env=environment(ROOT), capture_output=True, text=True, check=True, timeout=300)
        return json.loads(done.stdout)

    assert predicted("--executor", "ray", "--address", cluster.address) == predicted()
