"""The allocator that is replayed, against the statistics of torch's own on the device at hand: allocated and reserved after every call."""

import json
import os
import random
import subprocess
import sys

import pytest

from refta_profiler.predict.allocator import MIB, CachingAllocator, ExpandableAllocator

SIZES = ((1, 4096), (4096, MIB), (MIB + 1, 10 * MIB), (10 * MIB, 64 * MIB))  # ranges of bytes: what the pools tell apart, and both sides
TORCH = """
import json, sys, torch
calls, held, found = json.load(sys.stdin), {}, []
for number, nbytes in calls:
    if nbytes:
        held[number] = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    else:
        del held[number]
    found.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
print(json.dumps(found))
"""


def calls(seed: int) -> list[tuple[int, int]]:
    """(number, bytes) of allocations, (number, 0) of frees; never the same size twice, so that no fit is a matter of addresses."""
    draw = random.Random(seed)
    found: list[tuple[int, int]] = []
    live: list[int] = []
    for number in range(400):
        found.append((number, draw.randint(*draw.choice(SIZES))))
        live.append(number)
        while len(live) > 30 or (live and draw.random() < 0.45):
            found.append((live.pop(draw.randrange(len(live))), 0))
    return found


@pytest.mark.gpu
@pytest.mark.parametrize(("setting", "make"), [("", CachingAllocator), ("expandable_segments:True", ExpandableAllocator)])
@pytest.mark.parametrize("seed", range(3))
def test_every_call_holds_what_torch_says(seed, setting, make):
    asked = calls(seed)
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second before torch 2.9
    environment = {**os.environ, **(dict.fromkeys(names, setting) if setting else {})}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TORCH], input=json.dumps(asked), env=environment, capture_output=True, text=True, check=True
    )
    replayed, held, found = make(), {}, []
    for number, nbytes in asked:
        if nbytes:
            held[number] = replayed.allocate(nbytes)
        else:
            replayed.release(held.pop(number))
        found.append([replayed.allocated, replayed.reserved])
    assert found == json.loads(done.stdout)
