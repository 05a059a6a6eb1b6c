"""What the driver itself costs of a large sweep: seconds of processor time to plan, hand over and collect, and its memory.

    .venv/bin/python -m benchmarks.planning                  # 1,000 to 10,000 points
    .venv/bin/python -m benchmarks.planning --points 500,1000

Nothing is measured: processes and predictions are answered at once by stand-ins, so that what is left is the driver's: points made from
the scenario, jobs handed to an executor, answers written into the folder, rows read again. Exit code 4 where planning 10,000 points takes
2 s or more, or where it is not linear.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from refta_profiler import plan, run
from refta_profiler import scenario as scenarios
from refta_profiler.measure import rounds, stage, turns
from refta_profiler.measure.executors import Place, Process
from refta_profiler.plan import Point
from refta_profiler.progress import Lines
from refta_profiler.results import METRICS, Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.scenario import Scenario

SIZES = (1000, 2000, 5000, 10000)
BATCHES = 100
LIMIT_S = 2.0  # for planning 10,000 points
LINEAR = 2.0  # times what the smallest size takes a point, at most
AT_ONCE = 64
SCENARIO = """
model: vit-tiny
task: {{num_labels: 10}}
target: cpu
methods:
  - {{name: refta, rank: {ranks}, order: [shared, slices, reconstruct, reconstruct_recompute, reconstruct_stack]}}
batch: {batches}
measure: {{on_cpu: {{batch: {batches}, warmup: 0, steps: 2, repeats: 1, budget_s: 100000}}}}
"""
SAMPLE = {"forward": 0.2, "backward": 0.7, "optimizer": 0.1}
LOAD = {"others_fraction": 0.0, "steal_fraction": 0.0, "load_average": 1.0}
ANSWER: dict[str, Any] = {
    "values": {"peak_allocated_bytes": 10**9, "static_bytes": 10**8, "step_flops": 10**12, "trainable_parameters": 10**5},
    **{"samples": [SAMPLE] * 2, "loads": [LOAD] * 2, "bare": [], "gpu": None, "setup_seconds": 1.0, "setup_watched": True},
    **{"timeline": {"bytes": list(range(3000))}, "operators": [{"name": "aten::mm", "seconds": 1.0}] * 200},
    "where": {"node": "a", "device": "cpu: x, 1 thread", "place": "cpu: x", "cluster_node": "a"},
}


class Quick:
    """An executor whose processes answer at once."""

    name = "quick"
    places: Sequence[Place] = (Place("cpu: x"),)

    def __init__(self) -> None:
        self.waiting: list[Process] = []

    def refusal(self, point: Point, place: Place) -> str:
        return ""

    def free(self, place: Place) -> int:
        return AT_ONCE - len(self.waiting)

    def submit(self, process: Process, place: Place) -> None:
        self.waiting.append(process)

    def ended(self) -> Iterator[tuple[Process, Place, dict[str, Any]]]:
        yield self.waiting.pop(0), self.places[0], ANSWER

    def withdraw(self, unwanted: Any) -> list[Process]:
        return []

    def spread(self, call: Any, groups: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for group in groups:
            yield group, [([{}], []) if place == run.STEPS else predicted(point) for point, _, place in group]


class Silent(Lines):
    """Progress that is not told."""

    def start(self, what: str, total: int) -> None: ...

    def done(self, point: str, note: str = "") -> None: ...


def predicted(point: Point) -> tuple[list[Row], list[Row]]:
    """Rows as many as a dry run gives."""
    rows = [Row.of(point, "cpu", "dryrun", metric, 1) for metric, found in METRICS.items() if "dryrun" in found.sources]
    return [Row.of(point, "cpu", "contraction", "step_flops", 1)], rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Each size in a process of its own, since memory once taken is not given back; 4 where what must hold does not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=str(__doc__).split("\n")[0])
    parser.add_argument("--points", type=lambda text: [int(one) for one in text.split(",")], default=list(SIZES))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(*measured(chosen.one))
        return 0
    names = (
        "points",
        "planning s",
        "predictions s",
        "measurements s",
        "settling s",
        "table s",
        "MiB at first",
        "before the table",
        "in all",
    )
    print("  ".join(names))
    found = []
    for size in chosen.points:
        command = [sys.executable, "-m", "benchmarks.planning", "--one", str(size)]
        found.append([float(one) for one in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()])
        print(
            "  ".join(f"{value:{len(name)}.{0 if value >= 100 else 2}f}" for name, value in zip(names, found[-1], strict=True)), flush=True
        )
    planning = {int(one[0]): one[1] for one in found}
    slow = planning.get(10000, 0.0) >= LIMIT_S
    bent = planning[max(planning)] / max(planning) > LINEAR * planning[min(planning)] / min(planning)
    print(f"planning 10,000 points under {LIMIT_S:g} s: {not slow}; linear: {not bent}")
    return 4 if slow or bent else 0


def measured(size: int) -> tuple[float, ...]:
    """What a sweep of that many points costs the driver, in the order of the table's columns."""
    with tempfile.TemporaryDirectory(prefix="refta-profiler-") as name:
        scenario = sweep(Path(name), size)
        started = time.process_time()
        points = plan.points(scenario)
        planned = time.process_time() - started
        folder = RunFolder.create(Path(name) / "out", scenario.text)
        folder.order([point.id for point in points])
        quick: Any = Quick()
        before = memory()
        at_hand = rounds.Stage(scenario.measure, folder, "cpu", "cpu", Silent())
        parts = [
            taken(lambda: run.predict_all(points, [], folder, [], Silent(), quick)),
            taken(lambda: turns.take(at_hand, list(rounds.jobs(at_hand, points)), quick)),
            taken(lambda: stage.settle(at_hand, points)),
        ]
        bounded = memory()
        parts.append(taken(folder.write_table))
        return (len(points), planned, *parts, before, bounded, memory())


def taken(part: Callable[[], Any]) -> float:
    """The seconds of processor time that the part takes, which a busy machine does not change; waiting for the disk is not in them."""
    started = time.process_time()
    part()
    return time.process_time() - started


def sweep(folder: Path, size: int) -> Scenario:
    """A scenario of that many points (500 at least): ranks and orders of ReFTA, by batches."""
    text = SCENARIO.format(ranks=list(range(1, max(1, size // BATCHES // 5) + 1)), batches=list(range(1, BATCHES + 1)))
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return scenarios.load(path, [])


def memory() -> float:
    """The most MiB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    raise SystemExit(main())
