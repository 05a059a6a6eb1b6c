"""Jobs of a SLURM and a submitit that are faked: what they ask for, how they end, what is taken back, a controller that does not answer."""

import pickle
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
from real_steps import tiny
from worker_answers import answer

from refta_profiler.errors import HardwareError, ScenarioError
from refta_profiler.measure import slurm_commands
from refta_profiler.measure.executors import EXECUTOR, Process, slurm
from refta_profiler.measure.slurm_commands import gpus

ASKED = {"warmup": 0, "steps": 1, "passes": [], "instruments": []}
ANSWER = {**answer(), "where": {}}


def process(batch=1, label="lora", parallel=""):
    point = replace(tiny("roberta-tiny", "lora"), id=f"{label}-{batch}", label=label, batch=batch, parallel=parallel)
    return Process(point, 1, "cpu", 60.0, ASKED, {}, "warn")


class Job:
    """A job whose files lie in a folder; what would ask SLURM's accounting, or wait for a result, fails the test."""

    state = "UNKNOWN"

    def __init__(self, folder, name):
        self.job_id = name
        files = {part: folder / f"{name}.{part}" for part in ("submitted_pickle", "submission_file", "stdout", "stderr", "result_pickle")}
        self.paths = SimpleNamespace(**files)

    def ends(self, content=ANSWER, outcome="success"):
        self.paths.result_pickle.write_bytes(pickle.dumps((outcome, content)))

    def result(self):
        pytest.fail("waited for a result")


class Queue:
    """submitit's executor: keeps what jobs ask for."""

    def __init__(self, folder):
        self.folder, self.asked, self.arrays, self.jobs = folder, {}, [], []

    def update_parameters(self, **asked):
        self.asked |= asked

    def submit_array(self, calls):
        made = [Job(self.folder, f"{len(self.arrays)}_{number}") for number in range(len(calls))]
        self.arrays.append((dict(self.asked), calls))
        self.jobs += made
        return made


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(slurm, "time", made)
    return made


@pytest.fixture
def there(monkeypatch):
    """The queue as squeue tells it: ids, and whether each still waits; `failing` while the controller does not answer."""
    found = SimpleNamespace(pending=set(), running=set(), failing=False, cancelled=[])

    def run(command, **options):
        if found.failing:
            raise subprocess.CalledProcessError(1, command, stderr="Unable to contact slurm controller")
        if command[0] == "scancel":
            asked = set(command[2:])
            found.cancelled += sorted(asked & found.pending)
            left, found.pending = asked - found.pending, found.pending - asked
            if left:
                raise subprocess.CalledProcessError(1, command, stderr="Job/step already completing or completed")
            return SimpleNamespace(stdout="")
        return SimpleNamespace(stdout="\n".join(found.pending | (set() if "--states=PENDING" in command else found.running)))

    monkeypatch.setattr(slurm_commands.subprocess, "run", run)
    return found


@pytest.fixture
def jobs(tmp_path, clock):
    """An executor that is ready for processes on CPUs."""
    return ready(tmp_path)


def ready(tmp_path, device="cpu", **options):
    submitit = SimpleNamespace(AutoExecutor=lambda folder, cluster: Queue(tmp_path))
    made = slurm.Slurm(submitit, "slurm", options.pop("settings", {}), **options)
    made.open(tmp_path, device)
    return made


def submitted(jobs, there, *members, running=0):
    """The members' jobs; the first `running` of them run, the others wait."""
    for one in members:
        jobs.submit(one, jobs.place)
    jobs.flush()
    made = jobs.queue.jobs
    there.running, there.pending = {job.job_id for job in made[:running]}, {job.job_id for job in made[running:]}
    return made


def test_answers_come_as_they_are_there_and_leave_nothing(jobs, there, tmp_path):
    _, second = submitted(jobs, there, process(1), process(2), running=2)
    second.ends()
    ((ended, place, found),) = jobs.ended()
    assert (ended.point.batch, place, found) == (2, jobs.place, ANSWER)
    assert [job.job_id for job in jobs.waiting] == ["0_0"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_back_between_two_ends_is_what_still_waits(jobs, there):
    """The first two end together; the third has died without a result, the fourth runs, the last waits: that one alone is taken back."""
    made = submitted(jobs, there, *(process(batch) for batch in (1, 2, 4, 8, 16)), running=4)
    for job in made[:2]:
        job.ends()
    there.running = {made[3].job_id}
    ends = jobs.ended()
    next(ends)
    assert [one.point.batch for one in jobs.withdraw(lambda one: True)] == [16]
    assert [one.point.batch for one, _, _ in ends] == [2]
    assert there.cancelled == [made[4].job_id]
    assert [one.point.batch for one, _ in jobs.waiting.values()] == [4, 8]


def test_a_job_that_counts_as_ended_is_not_taken_back_though_slurm_queues_it_again(jobs, there, clock):
    made = submitted(jobs, there, process(1), process(2), running=2)
    there.running = set()
    ends = jobs.ended()
    next(ends)
    there.pending = {made[1].job_id}
    assert jobs.withdraw(lambda one: True) == []
    assert [one.point.batch for one, _, _ in ends] == [2]


def test_a_job_that_begins_while_it_is_taken_back_is_not(jobs, there, monkeypatch):
    made = submitted(jobs, there, process(1), process(2))
    real = slurm_commands.subprocess.run

    def run(command, **options):
        if command[0] == "scancel":  # the first has begun just now: scancel fails, and has cancelled the second
            there.pending, there.running = there.pending - {made[0].job_id}, {made[0].job_id}
        return real(command, **options)

    monkeypatch.setattr(slurm_commands.subprocess, "run", run)
    assert [one.point.batch for one in jobs.withdraw(lambda one: True)] == [2]


def test_a_job_that_died_gives_the_end_of_its_log_without_being_waited_for(jobs, there, clock):
    (job,) = submitted(jobs, there, process(), running=1)
    job.paths.stderr.write_text("Traceback\nslurmstepd: error: *** JOB 0 ON n1 CANCELLED DUE TO TIME LIMIT ***\n\n")
    there.running = set()
    ((_, _, found),) = jobs.ended()
    assert clock.now - 1000 >= slurm.GRACE_S
    assert found["failure"] == {
        "status": "error",
        "note": "SLURM job 0_0 gave no answer: slurmstepd: error: *** JOB 0 ON n1 CANCELLED DUE TO TIME LIMIT ***",
        "by": EXECUTOR,
    }


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=5.batch. Some of the step tasks have been OOM Killed.", "oom"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 5.0 cgroup.", "oom"),
        ("slurmstepd: error: Exceeded step memory limit at some point.", "oom"),
        ("no such file: /models/bloom/room.json", "error"),
        ("", "error"),
    ],
)
def test_why_a_job_died(jobs, there, log, status):
    (job,) = submitted(jobs, there, process(), running=1)
    job.paths.stderr.write_text(log)
    found = jobs.collect(job)["failure"]
    assert found["status"] == status
    assert found["note"].endswith(log or "nothing in its log")


def test_what_a_job_raised_is_its_last_line(jobs, there):
    (job,) = submitted(jobs, there, process(), running=1)
    job.ends('Traceback (most recent call last):\n  File "x"\nOSError: [Errno 28] No space left on device\n', outcome="error")
    assert jobs.collect(job)["failure"]["note"] == "SLURM job 0_0 gave no answer: OSError: [Errno 28] No space left on device"
    job.paths.result_pickle.write_bytes(b"")
    assert "cannot be read" in jobs.collect(job)["failure"]["note"]


def test_a_controller_that_does_not_answer_for_a_while_costs_no_job(jobs, there, clock):
    (job,) = submitted(jobs, there, process(), running=1)
    there.failing = True
    for _ in range(20):  # 200 s, in which the job ends: nobody sees it leave the queue
        clock.sleep(slurm.ASK_S)
        assert jobs.left_the_queue() == set()
    there.failing, there.running = False, set()
    clock.sleep(slurm.ASK_S)
    assert jobs.left_the_queue() == set()  # its result has its time from now on
    clock.sleep(slurm.GRACE_S + 1)
    assert jobs.left_the_queue() == {job}


def test_a_controller_that_does_not_answer_for_minutes_ends_the_run(jobs, there, clock):
    submitted(jobs, there, process(), running=1)
    there.failing = True
    with pytest.raises(HardwareError, match="squeue: Unable to contact slurm controller"):
        for _ in range(100):
            clock.sleep(slurm.ASK_S)
            jobs.left_the_queue()
    assert slurm.PATIENCE_S < clock.now - 1000 < slurm.PATIENCE_S + 5 * slurm.ASK_S


def test_an_array_for_those_of_a_method_that_ask_for_as_much(tmp_path, clock, there):
    members = [process(1), process(2, parallel="ddp:2"), process(4), process(4, label="refta/shared")]
    jobs = ready(tmp_path, "cuda")
    submitted(jobs, there, *members)
    assert [(asked["name"], asked["gpus_per_node"], len(calls)) for asked, calls in jobs.queue.arrays] == [
        ("lora", 1, 2),
        ("lora", 2, 1),
        ("refta-shared", 1, 1),
    ]
    assert jobs.queue.arrays[0][1][0].args[0].threads is None
    jobs = ready(tmp_path, cpus=3)
    submitted(jobs, there, *members)
    assert [asked["cpus_per_task"] for asked, _ in jobs.queue.arrays] == [3, 6, 3]
    assert jobs.queue.arrays[1][0]["slurm_srun_args"] == ["--cpus-per-task=6"]
    assert {call.args[0].threads for _, calls in jobs.queue.arrays for call in calls} == {3}


def test_ranks_that_no_node_takes_are_refused_by_what_the_largest_has(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(slurm, "said", lambda command: "n1 16 gpu:h100:4(S:0-1)\nn2 64 gpu:h100:2\nn3 8 (null)\n")
    jobs = ready(tmp_path, "cuda")
    many = process(parallel="ddp:8").point
    assert jobs.refusal(many, jobs.place) == "DDP over 8 ranks needs 8 GPUs of one node; the largest, n1, has 4"
    assert jobs.refusal(process(parallel="ddp:4").point, jobs.place) == jobs.refusal(process().point, jobs.place) == ""
    jobs = ready(tmp_path, cpus=10)
    assert jobs.refusal(many, jobs.place) == "DDP over 8 ranks needs 80 CPUs of one node; the largest, n2, has 64"
    monkeypatch.setattr(slurm, "said", lambda command: "n1 16 gpu\n")
    assert ready(tmp_path, "cuda").refusal(many, jobs.place) == ""  # nothing is known: SLURM says itself what it cannot give


def test_gpus_in_sinfos_words():
    assert [gpus(text) for text in ("gpu:8", "gpu:h100:8(S:0-1),gpu:l4:2", "shard:16,gpu:a100:1", "(null)")] == [8, 10, 1, 0]


def test_cpus_of_a_cpu_point_are_said_in_one_place(tmp_path, clock):
    with pytest.raises(ScenarioError, match="--slurm cpus_per_task=8: write --cpus 8"):
        ready(tmp_path, settings={"cpus_per_task": "8"})
    ready(tmp_path, "cuda", settings={"cpus_per_task": "8"})
