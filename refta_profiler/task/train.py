"""One training run: a method on real examples from one seed, then its scores on the validation and the test split."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy
import torch

from refta_profiler import models, workload
from refta_profiler.errors import in_a_line
from refta_profiler.plan import Point
from refta_profiler.task.inputs import Encoded, Encoder
from refta_profiler.task.settings import Data, Train
from refta_profiler.task.store import Trained

POOL = 16  # batches that are sorted by length together, so that little is padded
TESTED = 64  # examples a forward where nothing is trained


@dataclass(frozen=True)
class Job:
    """What one training run is determined by."""

    point: Point
    data: Data
    train: Train
    rate: float
    seed: int
    data_seed: int
    device: str = "cpu"


class Diverged(Exception):
    """The loss is no number any more."""


def run(job: Job) -> Trained:
    """The run's losses and scores; what goes wrong in it is its `failure`, for the other runs go on."""
    same = {"point": job.point.id, "label": job.point.label, "method": job.point.method, "rate": job.rate, "seed": job.seed}
    try:
        return replace(_run(job), **same)
    except Diverged as error:
        return Trained(**same, failure=str(error))
    except Exception as error:  # a method may fail in any library it stands on: a row with the reason, and the run goes on
        return Trained(**same, failure=in_a_line(error))


def estimate(job: Job) -> float | None:
    """Seconds that the run will take, from 3 of its steps and one batch of its validation split; None where those fail."""
    try:
        device = torch.device(job.device)
        splits = encoded(job.point.model, job.point.task["num_labels"], job.point.seq, job.data.model_dump_json(), job.data_seed)
        started = time.perf_counter()
        work = prepared(job.point, job, device)
        built = time.perf_counter() - started
        total = steps_of(job.train, len(splits["train"]), job.point.batch)
        short = replace(job, train=job.train.model_copy(update={"steps": 3, "epochs": None}))
        _, seconds = fit(work, splits["train"], short, device)
        started = time.perf_counter()
        part = splits["validation"].take(list(range(min(TESTED, len(splits["validation"])))))
        outcomes(work, part, device, classes=job.point.task["num_labels"] != 1)
        each = (time.perf_counter() - started) / len(part)
    except Exception:  # the run itself will say what is wrong
        return None
    return built + total * statistics.median(seconds) + each * (len(splits["validation"]) + len(splits["test"]))


def _run(job: Job) -> Trained:
    device = torch.device(job.device)
    point = replace(job.point, seed=job.seed)  # of the head's and the adapter's first values, and of dropout
    splits = encoded(point.model, point.task["num_labels"], point.seq, job.data.model_dump_json(), job.data_seed)
    work = prepared(point, job, device)
    losses, seconds = fit(work, splits["train"], job, device)
    work.model.eval()
    classes = point.task["num_labels"] != 1
    validation = outcomes(work, splits["validation"], device, classes=classes)
    return Trained(
        point.id,
        point.label,
        point.method,
        job.rate,
        job.seed,
        losses=tuple(losses),
        step_seconds=statistics.median(seconds),
        seconds=sum(seconds),
        validation=score(validation, splits["validation"], classes=classes),
        outcomes=tuple(outcomes(work, splits["test"], device, classes=classes)),
        parameters=sum(one.numel() for one in work.model.parameters() if one.requires_grad),
        adapter_parameters=work.adapted.trainable_parameters,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


@lru_cache(maxsize=1)
def encoded(model: str, num_labels: int, tokens: int | None, data: str, seed: int) -> dict[str, Encoded]:
    """The three splits as the model reads them; a process encodes them once."""
    from refta_profiler.task import data as examples

    splits = examples.read(Data.model_validate_json(data), num_labels, seed=seed)
    encoder = Encoder.of(model, tokens, images=splits.images)
    return {name: encoder.encode(getattr(splits, name)) for name in examples.SPLITS}


def prepared(point: Point, job: Job, device: torch.device) -> workload.Workload:
    """The point with its optimizer at the job's learning rate, and no batch yet."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = models.build(point, device)
    adapted = workload.attach(model, point)
    model.train()
    optimizer = workload.make_optimizer(model, point, foreach=device.type == "cuda")
    for group in optimizer.param_groups:
        group |= {"lr": job.rate, "weight_decay": job.train.weight_decay}
    return workload.Workload(point, model, adapted, optimizer, {})


def steps_of(train: Train, examples: int, batch: int) -> int:
    """Steps of a training: those asked for, or epochs · ⌈examples / batch⌉ in whole steps."""
    return train.steps or max(1, round((train.epochs or 1) * math.ceil(examples / batch)))


def fit(work: workload.Workload, examples: Encoded, job: Job, device: torch.device) -> tuple[list[float], list[float]]:
    """Train it; loss and seconds of every step. Diverged where the loss is no number."""
    total = steps_of(job.train, len(examples), work.point.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(work.optimizer, lambda step: factor(step, total, job.train))
    found: list[torch.Tensor] = []
    hook = work.model.register_forward_hook(lambda module, inputs, outputs: found.append(outputs.loss.detach()))
    losses, seconds = [], []
    for number, places in zip(range(total), batches(examples, work.point.batch, job.seed), strict=False):
        work.batch = examples.batch(places, device, dtype=_label_dtype(work))
        started = time.perf_counter()
        workload.training_step(work)
        schedule.step()
        losses.append(float(found.pop()))  # waits for the device
        seconds.append(time.perf_counter() - started)
        if not math.isfinite(losses[-1]):
            raise Diverged(f"the loss was no number in step {number + 1} of {total} at learning rate {job.rate:g}")
    hook.remove()
    return losses, seconds


def factor(step: int, total: int, train: Train) -> float:
    """What the learning rate is multiplied by in a step from 0: up to 1 over the warm-up, then as the schedule says.

    Linear, 10 steps, warm-up 0.2: 0.5, 1, 1, 0.875, … 0.125.
    """
    rising = round(train.warmup * total)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, total - rising)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[train.schedule]


def batches(examples: Encoded, size: int, seed: int) -> Iterator[list[int]]:
    """Batches without end, every example once an epoch, in an order that the seed alone determines; alike in length within a pool."""
    draw = numpy.random.default_rng(seed)
    while True:
        order = draw.permutation(len(examples))
        for start in range(0, len(order), POOL * size):
            pool = sorted(order[start : start + POOL * size].tolist(), key=lambda place: examples.lengths[place])
            cut = [pool[first : first + size] for first in range(0, len(pool), size)]
            yield from (cut[place] for place in draw.permutation(len(cut)))


def _label_dtype(work: workload.Workload) -> torch.dtype:
    """Whole numbers for classes; for a number to predict, the weights' own."""
    return torch.long if work.point.task["num_labels"] != 1 else next(work.model.parameters()).dtype


def outcomes(work: workload.Workload, examples: Encoded, device: torch.device, *, classes: bool) -> list[float]:
    """1 or 0 for every example, right or wrong; the number predicted where there are no classes."""
    found = numpy.zeros(len(examples))
    order = sorted(range(len(examples)), key=lambda place: examples.lengths[place])
    with torch.inference_mode(), workload.precision(replace(work, batch=examples.batch(order[:1], device, dtype=torch.long))):
        for start in range(0, len(order), TESTED):
            places = order[start : start + TESTED]
            batch = examples.batch(places, device, dtype=torch.long)
            labels = batch.pop("labels")
            logits = work.model(**batch).logits
            right = (logits.argmax(-1) == labels).float() if classes else logits[:, 0].float()
            found[places] = right.cpu().numpy()
    return found.tolist()


def score(found: list[float], examples: Encoded, *, classes: bool) -> float:
    """Accuracy, or Pearson's correlation."""
    from refta_profiler.task import bootstrap

    truth = None if classes else numpy.array(examples.targets)
    return bootstrap.score(bootstrap.Scored(numpy.array([found]), truth))
