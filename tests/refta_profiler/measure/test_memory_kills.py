"""Where the kernel tells how many processes it has killed for want of memory."""

import pytest

from refta_profiler.measure import memory_kills

VERSION_2 = {"proc/self/cgroup": "0::/user/me", "sys/fs/cgroup/user/me/memory.events": "low 0\noom 9\noom_kill 2\noom_group_kill 0\n"}
VERSION_1 = {
    "proc/self/cgroup": "9:cpu:/\n4:memory:/job/7\n0::/\n",
    "sys/fs/cgroup/memory/job/7/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
}
MACHINE = {"proc/vmstat": "nr_free_pages 1\noom_kill 7\n"}


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (VERSION_2 | MACHINE, 2),
        (VERSION_1 | MACHINE, 5),
        ({"proc/self/cgroup": "0::/of/the/host", "sys/fs/cgroup/memory.events": "oom_kill 3\n"} | MACHINE, 3),  # in a container
        ({"proc/self/cgroup": "0::/"} | MACHINE, 7),  # the group of all has no such file
        (MACHINE, 7),
        ({"proc/vmstat": "nr_free_pages 1\n"}, None),
        ({}, None),
    ],
)
def test_the_groups_number_or_the_machines(tmp_path, files, count):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory_kills.count(tmp_path) == count
