"""Processes as SLURM jobs, by the library submitit: an array a method, answers gathered as they come.

The run's folder has to lie where the nodes see it (submitit passes calls and answers as files in its subfolder `slurm`), and so has the
Python that runs this. `cluster=local` runs the jobs on this machine without SLURM.
"""

from __future__ import annotations

import functools
import importlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from refta_profiler.errors import HardwareError, ScenarioError
from refta_profiler.measure import carried, isolate, versions
from refta_profiler.measure.executors import Answer, Place, Process, Settings
from refta_profiler.measure.executors.local import Local

AT_ONCE = 200  # processes in SLURM's hands; the more there are, the more of a sweep is under way when it runs out of memory
LOOK_S = 0.5  # how often results are looked for
ASK_S = 10.0  # how often SLURM is asked what became of jobs without one
GRACE_S = 30.0  # how long after a job has left the queue its result may take to appear in a shared folder
MINUTES = 60  # of a job where --time is not given
HERE = "local"  # submitit's cluster that is this machine
OWN = ("cluster", "at_once")  # settings that are not submitit's


def make(settings: Settings) -> Slurm:
    """The cluster that this machine submits to; HardwareError where it submits to none."""
    try:
        submitit = importlib.import_module("submitit")
    except ImportError:
        raise ScenarioError("--executor slurm: the package submitit is not installed; pip install 'refta-profiler[slurm]'") from None
    cluster = settings.slurm.get("cluster", "slurm")
    if cluster != HERE and shutil.which("sbatch") is None:
        raise HardwareError("--executor slurm: there is no sbatch here; run this where SLURM jobs are submitted from")
    return Slurm(submitit, cluster, settings.slurm)


class Slurm:
    """Jobs of one partition; `submitit` is the library."""

    name = "slurm"

    def __init__(self, submitit: Any, cluster: str, settings: Mapping[str, str]) -> None:
        self.submitit, self.cluster, self.settings = submitit, cluster, dict(settings)
        self.at_once = whole(self.settings.get("at_once", str(AT_ONCE)), "at_once")
        self.place = Place(f"partition {self.settings.get('partition', 'by default')}")
        self.places: Sequence[Place] = (self.place,)
        self.handed: list[Process] = []  # not submitted yet: they wait for others of their method
        self.waiting: dict[Any, tuple[Process, float]] = {}  # by job, and when it was last seen in the queue
        self.asked = 0.0
        self.queue: Any = None
        self.folder = Path()

    def kind(self, wanted: str) -> str:
        """'cuda' where the partition has GPUs and none else is wanted; HardwareError where it is asked for one and has none."""
        if self.cluster == HERE:
            return Local().kind(wanted)
        if wanted == "cpu":
            return "cpu"
        option = ["-p", self.settings["partition"]] if "partition" in self.settings else []
        offered = sorted(set(said(["sinfo", "-h", "-o", "%P %G", *option]).splitlines()))
        if any("gpu" in line for line in offered):
            return "cuda"
        if wanted == "cuda":
            raise HardwareError(f"--device cuda: no partition of the SLURM cluster offers a GPU: {'; '.join(offered) or 'it has none'}")
        return "cpu"

    def open(self, folder: Path, device: str) -> None:
        """Jobs ask for that kind of device; what is passed to them lies in the run's folder."""
        self.folder = (folder / "slurm").resolve()
        self.queue = self.submitit.AutoExecutor(self.folder, cluster=self.cluster)
        asked = {"nodes": 1, "tasks_per_node": 1, "timeout_min": minutes(self.settings.get("time", str(MINUTES)))}
        asked |= {"gpus_per_node": 1} if device == "cuda" else {}
        rest = {f"slurm_{name}": text for name, text in self.settings.items() if name not in (*OWN, "time")}
        try:
            self.queue.update_parameters(**asked, **(rest if self.cluster != HERE else {}))
        except (ValueError, NameError, TypeError) as error:
            raise ScenarioError(f"--slurm: submitit refuses a setting: {' '.join(str(error).split())}") from None

    def free(self, place: Place) -> int:
        """As many as SLURM is to have in hand at once."""
        return self.at_once - len(self.waiting) - len(self.handed)

    def submit(self, process: Process, place: Place) -> None:
        """Handed over with the others of its method, when an end is asked for."""
        self.handed.append(process)

    def flush(self) -> None:
        """What was handed over is submitted, an array for every method."""
        arrays: dict[str, list[Process]] = {}
        for process in self.handed:
            arrays.setdefault(process.point.label, []).append(process)
        self.handed = []
        for label, members in arrays.items():
            self.queue.update_parameters(name=re.sub(r"[^A-Za-z0-9.]+", "-", label))
            calls = [functools.partial(carried.measure, process, versions.here(), self.place.name, "") for process in members]
            try:
                jobs = self.queue.submit_array(calls)
            except (self.submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
                raise HardwareError(f"--executor slurm: SLURM refuses the jobs of {label}: {' '.join(str(error).split())}") from error
            self.waiting |= {job: (process, time.monotonic()) for job, process in zip(jobs, members, strict=True)}

    def ended(self) -> Iterator[tuple[Process, Place, Answer]]:
        """What has ended: its result is there, or SLURM has it no longer."""
        self.flush()
        while self.waiting:
            gone = self.left_the_queue()
            found = [job for job in self.waiting if job.paths.result_pickle.exists() or job in gone]
            for job in found:
                process, _ = self.waiting.pop(job)
                yield process, self.place, self.collect(job)
            if found:
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
        there = queued()
        self.waiting = {job: (one, now if job.job_id in there else seen) for job, (one, seen) in self.waiting.items()}
        return {job for job, (_, seen) in self.waiting.items() if now - seen > GRACE_S}

    def collect(self, job: Any) -> Answer:
        """The job's answer; of one that died, the end of its log as the reason."""
        try:
            answer = job.result()
        except Exception as error:  # submitit's own, or whatever the job raised: both are the point's failure
            return carried.located(isolate.failure(status(job), died(job, error)), self.place.name, "")
        paths = job.paths
        for path in (paths.result_pickle, paths.submitted_pickle, paths.submission_file, paths.stdout, paths.stderr):
            path.unlink(missing_ok=True)  # of a job that gave an answer nothing more is of use
        return answer

    def withdraw(self, unwanted: Callable[[Process], bool]) -> list[Process]:
        """The unwanted jobs that SLURM had not started: they are cancelled, if still they have not."""
        found = {job.job_id: job for job, (process, _) in self.waiting.items() if unwanted(process)}
        if self.cluster == HERE or not found:
            return []
        said(["scancel", "--state=PENDING", *found])
        left = queued() | {name for name, job in found.items() if job.paths.result_pickle.exists()}
        return [self.waiting.pop(job)[0] for name, job in found.items() if name not in left]

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


def minutes(text: str) -> int:
    """SLURM's minutes, [days-]hours:minutes[:seconds] or minutes:seconds in whole minutes: '1:30:00' is 90, '1-0:0' a day, '0:90' two."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()) or len(parts) > 3:
        raise ScenarioError(f"--time {text}: write minutes, or hours:minutes:seconds, e.g. --time 90 or --time 1:30:00")
    numbers = [int(part) for part in parts]
    hours, minute, second = [*numbers, 0, 0][:3] if days or len(numbers) == 3 else [0, *numbers, 0][:3]
    return -(-(((int(days or 0) * 24 + hours) * 60 + minute) * 60 + second) // 60)


def said(command: Sequence[str]) -> str:
    """What a SLURM command prints; HardwareError with its own words where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except subprocess.CalledProcessError as error:
        raise HardwareError(f"SLURM does not answer: {command[0]}: {' '.join(error.stderr.split())}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"SLURM does not answer: {command[0]}: {error}") from error


def queued() -> set[str]:
    """The ids of all jobs of this user that wait or run: 123, and 123_4 in an array."""
    return set(said(["squeue", "-h", "-r", "--me", "-o", "%F_%K %A"]).split())


def status(job: Any) -> str:
    """'oom' where SLURM says that memory ran out, otherwise 'error'."""
    return "oom" if "oom" in (log(job) + job.state).lower().replace("_", "").replace("-", "").replace("outofmemory", "oom") else "error"


def died(job: Any, error: Exception) -> str:
    """Why a job left no answer: the end of what its call raised, or of its log."""
    _, raised, trace = str(error).partition("failed during processing with trace:")
    told = trace.split("You can check")[0].replace("-" * 22, "") if raised else log(job) or str(error)
    return f"SLURM job {job.job_id} gave no answer: {next((line.strip() for line in reversed(told.splitlines()) if line.strip()), '')}"


def log(job: Any) -> str:
    """What the job wrote to its error output."""
    return job.paths.stderr.read_text(errors="replace") if job.paths.stderr.exists() else ""
