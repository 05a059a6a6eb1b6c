"""What tests ask of processes that are not theirs to wait for."""

import time
from pathlib import Path


def is_alive(pid):
    """Whether the process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid):
    """Whether the process ends soon, by others' doing."""
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if not is_alive(pid):
            return True
        time.sleep(0.02)
    return False
