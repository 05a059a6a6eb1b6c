"""What measuring processes on a GPU are forked from, so that not each of them loads the libraries and draws the model's weights anew.

`python -m refta_profiler.measure.nursery SOCKET DRIVER`: an inherited socket, on which it is asked for one process after the other
(forks.py), and the id of the process that asks. It never touches a GPU, since CUDA does not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing.connection as connections
import os
import signal
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from refta_profiler import models, orphans
from refta_profiler.errors import in_a_line
from refta_profiler.measure import versions, worker
from refta_profiler.plan import Point

BEGUN = "begun"  # what it says to a request, or else why not; after BEGUN comes the exit code of the process
END = "end"  # what it is told where the process is to be killed
NO_GPU = 75  # exit code of a process that could not reach the GPU where it was (EX_TEMPFAIL of sysexits.h)
LOADED = ("peft", "transformers", *(f"refta_profiler.{name}" for name in ("collectives", "distributed", "flops", "workload")))
MEASURING = ("afterwards", "gpu", "group", "instruments", "memory", "setup", "timeline", "timing")  # what the worker imports of measure


class Kept:
    """The model of the last point, on the CPU, and the state that torch's generator was left in."""

    def __init__(self) -> None:
        self.made_from: tuple | None = None
        self.model: Any = None
        self.state: Any = None

    def meet(self, point: Point) -> None:
        """From now on the model is the point's; drawn where it is not already."""
        import torch

        if (wanted := models.made_from(point)) == self.made_from:
            return
        self.made_from = self.model = None  # one model at a time: it may fill half the memory
        gc.collect()
        self.model = models.build(point, "cpu")
        self.made_from, self.state = wanted, torch.get_rng_state()

    def build(self, point: Point, device: Any) -> Any:
        """What `models.build` gives, with the generators as it leaves them. For a forked process: it takes the model with it."""
        import torch

        torch.manual_seed(point.seed)  # a GPU's too
        torch.set_rng_state(self.state)
        return self.model.to(device)


def main(arguments: list[str]) -> int:
    """0 when nobody asks any more."""
    orphans.die_with_parent(int(arguments[1]))
    warnings.simplefilter("ignore")
    threads = load()
    kept = Kept()
    with Connection(int(arguments[0])) as driver:
        try:
            while True:
                asked = driver.recv()
                if asked != END:  # which may come when the process has just ended by itself
                    answer(driver, asked, kept, threads)
        except (EOFError, OSError):
            return 0


def load() -> int:
    """Import what measuring takes; how many threads torch takes by itself. Here it takes one: OpenMP's would be lost in a fork."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a library that only asks for a GPU does not touch it
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in (*LOADED, *(f"refta_profiler.measure.{name}" for name in MEASURING)):
        importlib.import_module(name)
    versions.here()  # which a process tells: of the code that was loaded here, whatever becomes of its files
    return threads


def answer(driver: Connection, asked: dict[str, Any], kept: Kept, threads: int) -> None:
    """A process is forked for the request and waited for, and its exit code told, a signal's as a negative number."""
    try:
        request = json.loads(Path(asked["request"]).read_text(encoding="utf-8"))
        kept.meet(Point.from_json(json.dumps(request["point"])))
    except Exception as error:  # a process of its own will show whether that is the point's failure
        driver.send(in_a_line(error))
        return
    alive, held = os.pipe()  # `held` is open as long as the process lives
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        orphans.die_with_parent(parent)
        os.close(alive)
        driver.close()
        work(asked, request["device"], kept, threads)
    os.close(held)
    driver.send(BEGUN)
    if driver in connections.wait([driver, alive]):  # told to end it, or the driver has gone
        os.kill(child, signal.SIGKILL)
    os.close(alive)
    driver.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def work(asked: dict[str, Any], device: str, kept: Kept, threads: int) -> NoReturn:
    """Be the worker that a fresh process would be: its environment, its error output, its threads. Never returns."""
    import torch

    code = 1
    try:
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.dup2(os.open(asked["errors"], os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
        torch.set_num_threads(asked["threads"] or threads)
        if device == "cuda":
            reach()
        code = worker.main([asked["request"], asked["answer"]], kept.build)
    except UnreachedError as error:
        print(error, file=sys.stderr)
        code = NO_GPU
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what the nursery would do at its own end is not this process's


class UnreachedError(Exception):
    """CUDA does not start in this process."""


def reach() -> None:
    """CUDA starts here; UnreachedError where it does not, as where a library has started it before the fork."""
    import torch

    try:
        torch.cuda.init()
    except Exception as error:
        raise UnreachedError(in_a_line(error)) from error


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
