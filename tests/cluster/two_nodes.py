"""A real Ray cluster of two nodes on this machine, and a copy of the code in which a measuring process answers after a moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKER = '''
"""A measuring process that measures nothing: what tests of executors need of one is that it is a process and answers."""
import json, os, sys, time
from pathlib import Path
from refta_profiler import orphans

request = json.loads(Path(sys.argv[1]).read_text())
orphans.die_with_parent(request["parent"])
time.sleep(float(os.environ.get("FAKE_SECONDS", "0.2")))
if request["point"]["label"].startswith("lora") and request["point"]["batch"] > 18:
    answer = {"failure": {"status": "oom", "note": "tried to allocate 5 GiB"}}
else:
    sample = {"forward": 0.2, "backward": 0.7, "optimizer": 0.1}
    load = {"others_fraction": 0.0, "steal_fraction": 0.0, "load_average": 1.0}
    answer = {"values": {"peak_allocated_bytes": 1000 * request["point"]["batch"], "static_bytes": 500}, "samples": [sample],
              "loads": [load], "bare": [], "gpu": None, "setup_seconds": 2.0, "setup_watched": False, "notes": []}
if request.get("trace"):
    Path(request["trace"]).write_bytes(b"traced by " + str(os.getpid()).encode())
answer |= {"code": __file__, "threads": os.environ.get("OMP_NUM_THREADS")}
Path(sys.argv[2] + ".part").write_text(json.dumps(answer))
os.replace(sys.argv[2] + ".part", sys.argv[2])
'''


def copy_with_fake_worker(folder: Path) -> Path:
    """The folder with a copy of both packages in it, whose worker is WORKER."""
    for name in ("refta", "refta_profiler"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "refta_profiler" / "measure" / "worker.py").write_text(WORKER)
    return folder


def command(*arguments: str) -> list[str]:
    """The command line of `run`."""
    return [sys.executable, "-m", "refta_profiler", "run", *arguments]


def environment(code: Path) -> dict[str, str]:
    """Where a driver finds the code."""
    return {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *(one for child in found for one in family(int(child)))]


def kill(node) -> None:
    """A node of ray.cluster_utils.Cluster is gone, with all its processes, as when its machine loses power."""
    pids = [one for found in node.all_processes.values() for process in found for one in family(process.process.pid)]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(condition, seconds: float, what: str) -> None:
    """Returns as soon as the condition holds; an AssertionError that names it where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
