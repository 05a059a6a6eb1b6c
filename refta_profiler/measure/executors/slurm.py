"""Processes as SLURM jobs, by the library submitit: an array for those of a method that ask for as much; answers gathered as they come.

The run's folder has to lie where the nodes see it (submitit passes calls and answers as files in its subfolder `slurm`), and so has the
Python that runs this. `cluster=local` runs the jobs on this machine without SLURM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import pickle
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from refta_profiler import parallel
from refta_profiler.errors import HardwareError, ScenarioError
from refta_profiler.measure import carried, cluster, isolate, versions
from refta_profiler.measure.executors import Answer, Place, Process, Settings
from refta_profiler.measure.executors.local import Local
from refta_profiler.measure.slurm_commands import gpus, minutes, queued, said
from refta_profiler.plan import Point

AT_ONCE = 200  # processes in SLURM's hands; the more there are, the more of a sweep is under way when it runs out of memory
LOOK_S = 0.5  # how often results are looked for
ASK_S = 10.0  # how often SLURM is asked what became of jobs without one
GRACE_S = 60.0  # how long after a job has left the queue its result may take to appear (nfs(5): what a folder holds is kept for acdirmax)
PATIENCE_S = 300.0  # how long SLURM may not answer, time and again, before the run ends
MINUTES = 60  # of a job where --time is not given
HERE = "local"  # submitit's cluster that is this machine
OWN = ("cluster", "at_once")  # settings that are not submitit's
OUT_OF_MEMORY = re.compile(r"oom.?kill|out.of.memory|exceeded (?:\w+ )*memory limit", re.IGNORECASE)  # slurmstepd's words, and sacct's


def make(settings: Settings) -> Slurm:
    """The cluster that this machine submits to; HardwareError where it submits to none."""
    try:
        submitit = importlib.import_module("submitit")
    except ImportError:
        raise ScenarioError("--executor slurm: the package submitit is not installed; pip install 'refta-profiler[slurm]'") from None
    which = settings.slurm.get("cluster", "slurm")
    if which != HERE and shutil.which("sbatch") is None:
        raise HardwareError("--executor slurm: there is no sbatch here; run this where SLURM jobs are submitted from")
    return Slurm(submitit, which, settings.slurm, settings.cpus)


class Slurm:
    """Jobs of one partition; `submitit` is the library."""

    name = "slurm"

    def __init__(self, submitit: Any, cluster: str, settings: Mapping[str, str], cpus: int = 1) -> None:
        self.submitit, self.cluster, self.settings, self.cpus = submitit, cluster, dict(settings), cpus
        self.at_once = whole(self.settings.get("at_once", str(AT_ONCE)), "at_once")
        self.place = Place(f"partition {self.settings.get('partition', 'by default')}")
        self.places: Sequence[Place] = (self.place,)
        self.handed: list[Process] = []  # not submitted yet: they wait for others of their method
        self.waiting: dict[Any, tuple[Process, float]] = {}  # by job, and when it was last seen in the queue
        self.asked = 0.0
        self.silent: float | None = None  # since when SLURM does not answer
        self.device = "cpu"
        self.queue: Any = None
        self.folder = Path()

    def kind(self, wanted: str) -> str:
        """'cuda' where the partition has GPUs and none else is wanted; HardwareError where it is asked for one and has none."""
        if self.cluster == HERE:
            return Local().kind(wanted)
        if wanted == "cpu":
            return "cpu"
        offered = sorted(set(said(["sinfo", "-h", "-o", "%P %G", *self.partition]).splitlines()))
        if any("gpu" in line for line in offered):
            return "cuda"
        if wanted == "cuda":
            raise HardwareError(f"--device cuda: no partition of the SLURM cluster offers a GPU: {'; '.join(offered) or 'it has none'}")
        return "cpu"

    @property
    def partition(self) -> list[str]:
        """What SLURM's commands are told so that they tell of the jobs' partition alone."""
        return ["-p", self.settings["partition"]] if "partition" in self.settings else []

    def open(self, folder: Path, device: str) -> None:
        """Jobs ask for that kind of device; what is passed to them lies in the run's folder."""
        if device == "cpu" and "cpus_per_task" in self.settings:
            given = self.settings["cpus_per_task"]
            raise ScenarioError(f"--slurm cpus_per_task={given}: write --cpus {given}, which also is how many threads a point gets")
        self.device, self.folder = device, (folder / "slurm").resolve()
        self.queue = self.submitit.AutoExecutor(self.folder, cluster=self.cluster)
        asked = {"nodes": 1, "tasks_per_node": 1, "timeout_min": minutes(self.settings.get("time", str(MINUTES)))}
        rest = {f"slurm_{name}": text for name, text in self.settings.items() if name not in (*OWN, "time")}
        try:
            self.queue.update_parameters(**asked, **(rest if self.cluster != HERE else {}))
        except (ValueError, NameError, TypeError) as error:
            raise ScenarioError(f"--slurm: submitit refuses a setting: {' '.join(str(error).split())}") from None

    def refusal(self, point: Point, place: Place) -> str:
        """Why no node of the partition takes the point's ranks; '' where one does, or SLURM does not say how many GPUs its nodes have."""
        needed = self.needed(ranks := parallel.world(point.parallel))
        if self.cluster == HERE or ranks == 1 or self.largest is None or needed <= self.largest[0]:
            return ""
        there, node = self.largest
        return cluster.too_many(point, self.device, needed, node, there)

    @functools.cached_property
    def largest(self) -> tuple[int, str] | None:
        """The most devices that one node of the partition has, and its name; None where SLURM does not say it in numbers."""
        try:
            lines = [line.split() for line in said(["sinfo", "-h", "-N", "-o", "%N %c %G", *self.partition]).splitlines()]
        except HardwareError:  # not to be known now: SLURM itself refuses what no node can take
            return None
        counts = [(gpus(offered) if self.device == "cuda" else int(cpus.rstrip("+")), name) for name, cpus, offered in lines]
        return max((one for one in counts if one[0]), default=None)

    def needed(self, ranks: int) -> int:
        """How many devices of one node so many ranks ask for: a GPU each, or --cpus CPUs."""
        return ranks if self.device == "cuda" else ranks * self.cpus

    def free(self, place: Place) -> int:
        """As many as SLURM is to have in hand at once."""
        return self.at_once - len(self.waiting) - len(self.handed)

    def submit(self, process: Process, place: Place) -> None:
        """Handed over with the others of its method, when an end is asked for."""
        self.handed.append(process)

    def flush(self) -> None:
        """What was handed over is submitted, an array for those of a method that have as many ranks."""
        arrays: dict[tuple[str, int], list[Process]] = {}
        for process in self.handed:
            arrays.setdefault((process.point.label, process.ranks), []).append(process)
        self.handed = []
        for (label, ranks), members in arrays.items():
            self.queue.update_parameters(name=re.sub(r"[^A-Za-z0-9.]+", "-", label), **self.resources(ranks))
            threads = self.cpus if self.device == "cpu" else None
            asked = [dataclasses.replace(process, threads=threads) for process in members]
            calls = [functools.partial(carried.measure, process, versions.here(), self.place.name, "") for process in asked]
            try:
                jobs = self.queue.submit_array(calls)
            except (self.submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
                raise HardwareError(f"--executor slurm: SLURM refuses the jobs of {label}: {' '.join(str(error).split())}") from error
            self.waiting |= {job: (process, time.monotonic()) for job, process in zip(jobs, members, strict=True)}

    def resources(self, ranks: int) -> dict[str, Any]:
        """What jobs of so many ranks ask submitit for, but for what the command line says itself."""
        needed = self.needed(ranks)
        if self.device == "cuda":
            return {} if "gpus_per_node" in self.settings else {"gpus_per_node": needed}
        # srun does not take the number over from sbatch (since SLURM 22.05)
        return {"cpus_per_task": needed, "slurm_srun_args": [f"--cpus-per-task={needed}"]}

    def ended(self) -> Iterator[tuple[Process, Place, Answer]]:
        """What has ended: its result is there, or SLURM has it no longer."""
        self.flush()
        while self.waiting:
            gone = self.left_the_queue()
            ended = [job for job in self.waiting if job.paths.result_pickle.exists() or job in gone]
            # all at once: until the last of them is handed over, `withdraw` would take back those that are still here
            for job, (process, _) in [(job, self.waiting.pop(job)) for job in ended]:
                yield process, self.place, self.collect(job)
            if ended:
                return
            time.sleep(LOOK_S)

    def left_the_queue(self) -> set[Any]:
        """The jobs that are neither queued nor running, and had the time to leave a result."""
        now = time.monotonic()
        if self.cluster == HERE:
            return {job for job in self.waiting if job.done()}
        if now - self.asked < ASK_S:
            return set()
        self.asked = now
        if (there := self.in_queue()) is None:
            return set()
        self.waiting = {job: (one, now if job.job_id in there else seen) for job, (one, seen) in self.waiting.items()}
        return {job for job, (_, seen) in self.waiting.items() if now - seen > GRACE_S}

    def in_queue(self, *only: str) -> set[str] | None:
        """The ids of this user's jobs that wait or run; None where SLURM does not answer, HardwareError where it has not for long.

        When it answers again, no job counts as gone that left the queue meanwhile: its result has its time from now on.
        """
        now = time.monotonic()
        try:
            found = queued(*only)
        except HardwareError:
            self.silent = now if self.silent is None else self.silent
            if now - self.silent > PATIENCE_S:
                raise
            return None
        if self.silent is not None:
            self.silent, self.waiting = None, {job: (one, now) for job, (one, _) in self.waiting.items()}
        return found

    def collect(self, job: Any) -> Answer:
        """The job's answer; of one that died, the end of its log as the reason, and of one that failed, of what it raised."""
        paths = job.paths
        if not paths.result_pickle.exists():  # submitit would wait for it, where there is no accounting for ever
            return self.unanswered(job, log(job))
        try:
            outcome, answer = pickle.loads(paths.result_pickle.read_bytes())
        except (EOFError, pickle.UnpicklingError) as error:
            return self.unanswered(job, f"its result cannot be read: {error}")
        if outcome != "success":
            return self.unanswered(job, str(answer))
        for path in (paths.result_pickle, paths.submitted_pickle, paths.submission_file, paths.stdout, paths.stderr):
            path.unlink(missing_ok=True)  # of a job that gave an answer nothing more is of use
        return answer

    def unanswered(self, job: Any, told: str) -> Answer:
        """The answer of a job that gave none, with the last line of what is told of it; `oom` where SLURM says that memory ran out."""
        last = next((line.strip() for line in reversed(told.splitlines()) if line.strip()), "nothing in its log")
        note = f"SLURM job {job.job_id} gave no answer: {last}"
        if OUT_OF_MEMORY.search(f"{log(job)} {job.state}"):
            return carried.located(isolate.failure("oom", note), self.place.name, "")
        return carried.unmeasured(note, self.place.name)

    def withdraw(self, unwanted: Callable[[Process], bool]) -> list[Process]:
        """The unwanted jobs that SLURM had not started: they are cancelled, if still they have not."""
        found = {job.job_id: job for job, (process, _) in self.waiting.items() if unwanted(process)}
        if self.cluster == HERE or not found or (pending := self.in_queue("--states=PENDING")) is None:
            return []
        asked = [name for name in found if name in pending]
        if not asked:
            return []
        with contextlib.suppress(HardwareError):  # it fails where one has begun meanwhile, the others cancelled: the queue tells which
            said(["scancel", "--state=PENDING", *asked])
        while (left := self.in_queue()) is None:
            time.sleep(ASK_S)
        return [self.waiting.pop(found[name])[0] for name in asked if name not in left and not found[name].paths.result_pickle.exists()]

    def spread(self, call: Callable[[Any], Any], groups: Sequence[Any]) -> None:
        """None: predictions are made on the cores of this machine."""

    def describe(self) -> dict[str, Any]:
        """What jobs ask for."""
        return {"executor": self.name, "slurm": self.settings}

    def close(self) -> None:
        """What still runs or waits is cancelled."""
        for job in self.waiting:
            job.cancel(check=False)
        self.waiting = {}


def whole(text: str, name: str) -> int:
    """The number that a setting gives; a ScenarioError where it is none."""
    if not text.isdigit() or int(text) < 1:
        raise ScenarioError(f"--slurm {name}={text}: write a whole number from 1 on")
    return int(text)


def log(job: Any) -> str:
    """What the job wrote to its error output."""
    return job.paths.stderr.read_text(errors="replace") if job.paths.stderr.exists() else ""
