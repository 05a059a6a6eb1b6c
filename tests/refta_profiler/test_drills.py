"""A run is killed at random moments, resumed each time, and ends with what an undisturbed run has."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from live_processes import is_alive

KILLS = 20
SCENARIO = """\
name: drill
model: roberta-tiny
target: h100
methods:
  - {name: head}
  - {name: lora, rank: 2}
  - {name: refta, rank: 2}
batch: [1, 2]
seq: [16]
measure: {on_cpu: {batch: [1], warmup: 0, steps: 1, repeats: 1}}
"""


def command(tmp_path, *more):
    return [sys.executable, "-m", "refta_profiler", "run", str(tmp_path / "drill.yaml"), "--device", "cpu", *more]


def rows(folder):
    """What the table has of each point: everything but times and sizes of a process, which two runs never share."""
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    timed = [one["metric"] for one in found if "seconds" in one["metric"] or one["metric"].startswith("marks_")]
    return {
        tuple(one[name] for name in ("point", "target", "source", "metric", "status"))
        + ((one["value"],) if one["metric"] not in timed else ())
        for one in found
    }


def children(pid):
    """The processes that a process started, and theirs."""
    found = []
    for child in subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split():
        found += [int(child), *children(int(child))]
    return found


@pytest.mark.drills
@pytest.mark.skipif(sys.platform != "linux", reason="orphans die by a Linux call")
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    (tmp_path / "drill.yaml").write_text(SCENARIO)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    started = time.monotonic()
    subprocess.run(command(tmp_path, "--out", str(tmp_path / "calm")), check=True, **quiet)
    whole = time.monotonic() - started
    (calm,) = (tmp_path / "calm").iterdir()

    draw, killed, attempts = random.Random(0), 0, 0
    while killed < KILLS:  # a run that is done before its time is up has been drilled enough: the next one starts anew
        attempts += 1
        killed += drill(tmp_path, tmp_path / f"drilled-{attempts}", whole, draw, most=KILLS - killed)
        (folder,) = (tmp_path / f"drilled-{attempts}").iterdir()
        assert rows(folder) == rows(calm)


def drill(tmp_path, out, whole, draw, *, most):
    """Kill and resume one run until it is done; how often it was killed. What it had started must die with it."""
    killed, folder = 0, None
    while True:
        more = ["--resume", str(folder)] if folder else ["--out", str(out)]
        run = subprocess.Popen(command(tmp_path, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = run.communicate(timeout=draw.uniform(0.3, 0.6 * whole) if killed < most else 600)
            assert run.returncode == 0, errors
            return killed
        except subprocess.TimeoutExpired:
            family = children(run.pid)
            os.kill(run.pid, signal.SIGKILL)
            run.communicate()
            killed += 1
            assert gone(family)
        folder = next((one for one in out.glob("*") if (one / "scenario.yaml").exists()), None)
        if folder is None:  # killed before its scenario was written: nothing is lost, and nothing is left that would be taken for a run
            shutil.rmtree(out, ignore_errors=True)


def gone(family):
    """Whether all of these processes end within seconds."""
    deadline = time.monotonic() + 5
    while any(is_alive(one) for one in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not [one for one in family if is_alive(one)]
