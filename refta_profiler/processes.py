"""Processes of one thread each that share a job over the cores: they die with this one, and Ctrl-C is this one's to handle."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from typing import Any

from refta_profiler import orphans

Job = Any  # what the caller knows the work by
Ended = tuple[Job, "Future[Any]"]
Begin = Callable[[int], None]  # what a process of a pool does first; it is told the id of the process that started it


@contextlib.contextmanager
def interruptions_held() -> Iterator[None]:
    """Within it Ctrl-C waits. Processes that are started here never hear it, even while they import: it is the driver's to handle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def one_thread(parent: int) -> None:
    """What a process of the pool begins with. Ctrl-C is the driver's to handle."""
    import torch

    orphans.die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def loading_quietly() -> None:
    """From now on transformers does not say of every model that it loads that the head is new: it is, and is trained."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def pool(count: int, begin: Begin) -> Executor:
    """So many fresh processes, each of which begins with that call."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=begin, initargs=(os.getpid(),))


def ended(call: Callable[..., Any], jobs: Sequence[tuple[Job, tuple[Any, ...]]], count: int, begin: Begin) -> Iterator[Ended]:
    """Every job as it ends, with the future of `call(*arguments)`, over so many processes; what is not begun ends with the consumer.

    What was yielded is not held here: of thousands of jobs the answers would fill the memory.
    """
    with pool(count, begin) as workers:
        try:
            with interruptions_held():
                waiting = {workers.submit(call, *arguments): job for job, arguments in jobs}
            for future in as_completed(list(waiting)):
                yield waiting.pop(future), future
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
