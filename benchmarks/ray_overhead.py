"""What `--executor ray` costs beside local processes on short points: by ratio, and where it goes. Needs the package ray.

    .venv/bin/python -m benchmarks.ray_overhead              # 50 points, on a Ray of one CPU that is started here

Both measure the same points one at a time, so that the ratio is of overhead alone; --cpus 2 shows what a second device gains.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refta_profiler import plan
from refta_profiler import scenario as scenarios
from refta_profiler.measure import rounds, turns
from refta_profiler.measure.executors import Executor, Process, Settings, make
from refta_profiler.progress import Lines
from refta_profiler.run_folder import RunFolder

SCENARIO = """
model: roberta-tiny
task: {{num_labels: 3}}
seq: [8]
target: cpu
methods: [{{name: head}}, {{name: refta, rank: [1, 2, 3, 4]}}]
batch: {batches}
measure: {{instruments: [], on_cpu: {{batch: {batches}, warmup: 0, steps: 1, repeats: 1, budget_s: 100000}}}}
"""


NAMES = ("executor", "cluster started", "in all", "connecting", "first answer", "handing over", "waiting", "keeping answers")


class Timed:
    """An executor, with when each process was handed over and when its answer came."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.name = executor, executor.name
        self.begun: dict[str, float] = {}
        self.handing, self.waiting, self.first = 0.0, 0.0, 0.0
        self.started = time.perf_counter()

    @property
    def places(self) -> Any:
        return self.executor.places

    def refusal(self, point: Any, place: Any) -> str:
        return self.executor.refusal(point, place)

    def free(self, place: Any) -> int:
        return self.executor.free(place)

    def submit(self, process: Process, place: Any) -> None:
        before = time.perf_counter()
        self.executor.submit(process, place)
        self.handing += time.perf_counter() - before

    def withdraw(self, unwanted: Any) -> list[Process]:
        return self.executor.withdraw(unwanted)

    def ended(self) -> Iterator[Any]:
        before = time.perf_counter()
        for found in self.executor.ended():
            self.waiting += time.perf_counter() - before
            self.first = self.first or time.perf_counter() - self.started
            yield found
            before = time.perf_counter()


class Silent(Lines):
    """Progress that is not told."""

    def start(self, what: str, total: int) -> None: ...

    def done(self, point: str, note: str = "") -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the points both ways, a round after the other, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_overhead", description=str(__doc__).split("\n")[0])
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args(arguments)
    cluster_utils: Any = importlib.import_module("ray.cluster_utils")
    print("  ".join(NAMES))
    totals: dict[str, list[float]] = {"local": [], "ray": []}
    for name in list(totals) * chosen.rounds:
        before = time.perf_counter()
        options = {"num_cpus": chosen.cpus, "include_dashboard": False}
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=options) if name == "ray" else None
        start = time.perf_counter() - before
        found = once(name, Settings(address=cluster.address if cluster else None), chosen.points)
        totals[name].append(found[0])
        if cluster:
            cluster.shutdown()
        cells = [f"{value:{len(title)}.2f}" for title, value in zip(NAMES[1:], (start, *found), strict=True)]
        print("  ".join([name.ljust(len(NAMES[0])), *cells]), flush=True)
    local, other = (statistics.median(totals[name]) for name in totals)
    print(f"ray against local, {chosen.points} points on {chosen.cpus} CPU: {other / local:.3f}, without starting the cluster")
    return 0


def once(name: str, settings: Settings, count: int) -> tuple[float, ...]:
    """Seconds of measuring the points: in all, of connecting, until the first answer, handing over, waiting, and keeping the answers."""
    with tempfile.TemporaryDirectory(prefix="refta-profiler-") as place:
        path = Path(place) / "short.yaml"
        path.write_text(SCENARIO.format(batches=list(range(1, count // 5 + 1))), encoding="utf-8")
        scenario = scenarios.load(path, [])
        points = plan.points(scenario)
        folder = RunFolder.create(Path(place) / "out", scenario.text)
        started = time.perf_counter()
        with contextlib.closing(make(name, settings)) as executor:
            executor.open(folder.path, executor.kind("cpu"))
            timed = Timed(executor)
            stage = rounds.Stage(scenario.measure, folder, "cpu", "cpu", Silent())
            turns.take(stage, list(rounds.jobs(stage, points)), timed)  # pyright: ignore[reportArgumentType]
            ended = time.perf_counter()
        whole, connecting = ended - started, timed.started - started
        keeping = ended - timed.started - timed.handing - timed.waiting
        return whole, connecting, timed.first, timed.handing, timed.waiting, keeping


if __name__ == "__main__":
    raise SystemExit(main())
