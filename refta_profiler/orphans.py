"""Processes that this tool starts die with it, however it dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """From now on the kernel kills this process when its parent is gone; nothing on systems other than Linux.

    parent: the id of the process that started this one. Where it went before this was asked, this process is another's and ends at once.
    (Which one takes it over says nothing: in a container the parent itself may be process 1.)
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
