"""`--executor slurm`: by submitit's local executor, and on a real SLURM of one node where Debian's slurm-wlm and munge can be started."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from two_nodes import command, copy_with_fake_worker, environment, wait_for

pytest.importorskip("submitit", reason="the package submitit is not installed: pip install 'refta-profiler[slurm]'")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]

SCENARIO = """
name: sweep
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods:
  - {name: lora, rank: [2]}
  - {name: refta, rank: [2], order: [shared, reconstruct]}
batch: [1, 19, 20, 21, 22, 23]
measure: {on_cpu: {batch: [1, 19, 20, 21, 22, 23], warmup: 0, steps: 1, repeats: REPEATS, budget_s: 3000}}
"""
RANKS = """
name: ranks
model: roberta-tiny
task: {num_labels: 3}
seq: [8]
target: cpu
methods: [{name: lora, rank: 2}]
parallel: [none, ddp:2, ddp:99]
batch: [1]
measure: {on_cpu: {batch: [1], warmup: 0, steps: 1, repeats: REPEATS, budget_s: 3000}}
"""
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    return copy_with_fake_worker(tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="module")
def slurm():
    """The variables with which SLURM's commands find a cluster of this machine, started for the test."""
    missing = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no SLURM can be started here: {', '.join(missing) or 'root'} is missing (apt-get install slurm-wlm munge)")
    folder = Path("/tmp") / f"slurm-of-a-test-{os.getpid()}"  # short: munge's socket must be
    folder.mkdir(mode=0o755)
    started = []
    try:
        started += daemons(folder)
        variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        wait_for(lambda: "idle" in said(["sinfo", "-h"], variables), 30, "a node that takes jobs")
        yield variables
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=30)
        shutil.rmtree(folder)


def daemons(folder):
    """munge, the controller and the node's daemon, as processes of their own."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host, cores = socket.gethostname().partition(".")[0], os.cpu_count()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, cores=cores, ports=free_ports()))
    files = [f"--{option}={folder}/munge.{end}" for option, end in (("socket", "socket"), ("pid-file", "pid"), ("seed-file", "seed"))]
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--log-file={folder}/munge.log", *files]
    yield process(munge, {})
    wait_for((folder / "munge.socket").exists, 20, "munge's socket")
    for name in DAEMONS[1:]:
        yield process([name, "-D"], {"SLURM_CONF": str(folder / "slurm.conf")})


def process(arguments, variables):
    path = {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    return subprocess.Popen(arguments, env={**os.environ, **path, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_ports():
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def said(arguments, variables):
    return subprocess.run(arguments, env=os.environ | variables, capture_output=True, text=True, check=False).stdout


def run(code, tmp_path, *arguments, repeats=2, scenario=SCENARIO, **variables):
    path = tmp_path / "sweep.yaml"
    path.write_text(scenario.replace("REPEATS", str(repeats)))
    asked = ("--only", "measure", "--device", "cpu", "--executor", "slurm", *arguments)
    found = {**environment(code), "FAKE_SECONDS": "0.1", **variables}
    return subprocess.Popen(command(str(path), *asked), cwd=code, env=found, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, seconds=300):
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        pytest.fail(f"not within {seconds} s: {errors}")
    return process.returncode, errors


def peaks(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["source"] == "measured" and row["metric"] == "peak_allocated_bytes"]
    assert len({row["point"] for row in found}) == len(found)
    return {(row["label"], row["batch"]): row["status"] for row in found}


def answers(folder):
    return [json.loads(path.read_text())["answer"] for path in (folder / "processes").iterdir()]


def test_submitits_local_executor_gives_every_point_once(tmp_path, code):
    status, errors = finish(run(code, tmp_path, "--out", str(tmp_path / "out"), "--slurm", "cluster=local", "--slurm", "at_once=2"))
    assert status == 0, errors
    (folder,) = (tmp_path / "out").iterdir()
    found = peaks(folder)
    assert Counter(found.values()) == {"ok": 13, "oom": 2, "skipped": 3}
    assert [found["lora", batch] for batch in ("1", "19", "20", "21")] == ["ok", "oom", "oom", "skipped"]
    assert len(answers(folder)) == 2 * 13 + 2
    assert {answer["where"]["cluster_node"] for answer in answers(folder)} == {socket.gethostname()}
    assert len(list((folder / "traces").iterdir())) >= 13
    assert not list((folder / "slurm").glob("*.pkl"))


def test_what_cannot_be_is_said(tmp_path, code):
    status, errors = finish(run(code, tmp_path, "--time", "soon", "--slurm", "cluster=local"))
    assert (status, "--time soon: write minutes" in errors) == (2, True)
    status, errors = finish(run(code, tmp_path, "--slurm", "cluster=local", "--slurm", "at_once=none"))
    assert (status, "--slurm at_once=none: write a whole number" in errors) == (2, True)
    bare = tmp_path / "bare"
    bare.mkdir()
    status, errors = finish(run(code, tmp_path, PATH=str(bare)))
    assert (status, "there is no sbatch here" in errors) == (3, True)


def test_a_real_slurm_runs_an_array_a_method_and_takes_back_what_a_sweep_cannot_need(tmp_path, code, slurm):
    started = run(code, tmp_path, "--out", str(tmp_path / "out"), "--partition", "debug", "--time", "5", **slurm)
    wait_for(lambda: "_" in said(["squeue", "-h", "-o", "%i"], slurm), 60, "an array in the queue")
    status, errors = finish(started)
    assert status == 0, errors
    (folder,) = (tmp_path / "out").iterdir()
    found = peaks(folder)
    assert len(found) == 18
    assert Counter(status for (label, _), status in found.items() if label != "lora") == {"ok": 12}
    of_lora = [found["lora", batch] for batch in ("1", "19", "20", "21", "22", "23")]
    assert of_lora[:3] == ["ok", "oom", "oom"]
    assert of_lora[-1] == "skipped"
    assert {answer["where"]["place"] for answer in answers(folder)} == {"partition debug"}
    wait_for(lambda: not said(["squeue", "-h"], slurm), 40, "an empty queue")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need two CPUs")
def test_ranks_get_as_many_cpus_of_one_node(tmp_path, code, slurm):
    status, errors = finish(run(code, tmp_path, "--out", str(tmp_path / "out"), scenario=RANKS, **slurm))
    assert status == 0, errors
    (folder,) = (tmp_path / "out").iterdir()
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        found = {row["parallel"]: row for row in csv.DictReader(file) if row["metric"] == "peak_allocated_bytes"}
    assert {how: row["status"] for how, row in found.items()} == {"": "ok", "ddp:2": "ok", "ddp:99": "skipped"}
    host = socket.gethostname().partition(".")[0]
    assert found["ddp:99"]["note"] == f"DDP over 99 ranks needs 99 CPUs of one node; the largest, {host}, has {os.cpu_count()}"
    assert {json.loads(path.read_text())["threads"] for path in (folder / "details").iterdir()} == {"1"}


def test_a_job_that_is_killed_is_a_row_that_resuming_makes_anew(tmp_path, code, slurm):
    """This SLURM keeps no accounts: what became of a job that left no result, nobody can say for ever."""
    started = run(code, tmp_path, "--out", str(tmp_path / "out"), repeats=1, scenario=RANKS, FAKE_SECONDS="600", **slurm)
    wait_for(lambda: said(["squeue", "-h", "-t", "RUNNING"], slurm), 60, "a job that runs")
    wait_for(lambda: len(said(["squeue", "-h", "-r"], slurm).splitlines()) == 2, 60, "both arrays in the queue")  # none comes after
    said(["scancel", "--me"], slurm)
    status, errors = finish(started)
    assert status == 1, errors
    assert "gave no answer" in errors
    (folder,) = (tmp_path / "out").iterdir()
    status, errors = finish(run(code, tmp_path, "--resume", str(folder), repeats=1, scenario=RANKS, **slurm))
    assert status == 0, errors
    assert "measure: 2 points" in errors


def test_ctrl_c_empties_the_queue_and_the_folder_is_gone_on_with(tmp_path, code, slurm):
    started = run(code, tmp_path, "--out", str(tmp_path / "out"), repeats=1, **slurm)
    wait_for(lambda: len(list(tmp_path.glob("out/*/processes/*.json"))) >= 2, 60, "two points")
    started.send_signal(signal.SIGINT)
    status, errors = finish(started, 60)
    assert status == 130, errors
    assert "Traceback" not in errors
    wait_for(lambda: not said(["squeue", "-h"], slurm), 40, "an empty queue")
    (folder,) = (tmp_path / "out").iterdir()
    kept = len(answers(folder))
    status, errors = finish(run(code, tmp_path, "--resume", str(folder), repeats=1, **slurm))
    assert status == 0, errors
    assert f"measure: {18 - kept} points" in errors
    assert len(peaks(folder)) == 18


def test_a_partition_that_is_not_there_is_said_in_slurms_words(tmp_path, code, slurm):
    status, errors = finish(run(code, tmp_path, "--out", str(tmp_path / "out"), "--partition", "nowhere", **slurm))
    assert status == 3
    assert "SLURM refuses the jobs" in errors
    assert "invalid partition" in errors.lower()
    status, errors = finish(run(code, tmp_path, "--out", str(tmp_path / "out"), "--slurm", "colour=red", **slurm))
    assert status == 2
    assert "colour" in errors
