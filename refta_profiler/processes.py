"""Processes of one thread each that share a job over the cores: they die with this one, and Ctrl-C is this one's to handle."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from refta_profiler import orphans


@contextlib.contextmanager
def interruptions_held() -> Iterator[None]:
    """Within it Ctrl-C waits. Processes that are started here never hear it, even while they import: it is the driver's to handle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def one_thread() -> None:
    """What a process of the pool begins with. Ctrl-C is the driver's to handle."""
    import torch

    orphans.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def loading_quietly() -> None:
    """From now on transformers does not say of every model that it loads that the head is new: it is, and is trained."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
