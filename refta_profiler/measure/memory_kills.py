"""How many processes the kernel has killed for want of memory: who sent a SIGKILL cannot be asked, whether this number grew can.

Linux counts them by control group (memory.events of version 2, memory.oom_control of version 1: Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst), whichever limit was hit, and of the whole machine (/proc/vmstat, oom_kill). It counts before it sends the signal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
OOM_KILL = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def count(root: Path = ROOT) -> int | None:
    """The kills so far in this process's control group, or of the whole machine where the group is not told; None where neither is."""
    for path in (*groups(root), root / "proc/vmstat"):
        try:
            found = OOM_KILL.search(path.read_text(encoding="utf-8"))
        except OSError:  # not on this system, or not to be read by this user: the next one is asked
            continue
        if found:
            return int(found[1])
    return None


def groups(root: Path) -> Iterator[Path]:
    """Where the kernel may tell the number for this process's group; of a container, the group's folder is the root that it sees."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        mounted, file = root / "sys/fs/cgroup", "memory.events"
        if controllers:
            mounted, file = mounted / "memory", "memory.oom_control"
        if not controllers or "memory" in controllers.split(","):
            yield mounted / group.lstrip("/") / file
            yield mounted / file
