"""A step as a run stores it, replayed in Python: what the page's own replay is held against."""

from refta_profiler.predict.dryrun import ALLOCATORS
from refta_profiler.predict.replay import PlainMemory, replay
from refta_profiler.predict.row_sums import RowSum
from refta_profiler.predict.storage import Block, Stream


def decoded(entry, batch):
    """The step's initial sizes, its stream over two steps, where the second starts, and its workspaces."""
    step = entry["first" if batch == 1 else "following"]
    sizes = [constant + each * batch for constant, each in step["sizes"]]
    blocks, live, events, places = [], [], [], []
    sums = [[place, *(a + b * batch for a, b in (inputs, outputs)), *rest] for place, inputs, outputs, *rest in step["row_sums"]]
    scratch = [(one[0], RowSum(one[0], "", *one[1:]).scratch(*entry["scratch"])) for one in sums if entry["scratch"]]
    for index, event in enumerate([*step["events"], None]):
        places.append(len(events))
        for taken in (taken for place, taken in scratch if place == index):
            numbers = [len(blocks) + number for number in range(len(taken))]
            blocks += [Block(number, size, "forward", "", (), 0) for number, size in zip(numbers, taken, strict=True)]
            events += [*((number, 1) for number in numbers), *((number, -1) for number in reversed(numbers))]
        if event is None:
            break
        if event >= 0:
            live.append(len(blocks))
            events.append((len(blocks), 1))
            blocks.append(Block(len(blocks), sizes[event], "forward", "", (), 0))
        else:
            events.append((live.pop(event), -1))
    again = [one for one in events if one[0] not in live]
    workspaces = [(places[place], entry["workspace_bytes"]) for place in step["products"] if entry["workspace_bytes"]]
    workspaces += [(places[place], entry["biased_workspace_bytes"]) for place in step["biased"] if entry["biased_workspace_bytes"]]
    initial = [("weights", sizes[one]) if one >= 0 else ("", sizes[-1 - one]) for one in step["initial"]]
    return initial, Stream(blocks, events + again), len(events), workspaces


def peaks(entry, batch):
    """(allocated, reserved) of that step."""
    memory = {"plain": PlainMemory, **ALLOCATORS}[entry["memory"]]
    initial, stream, boundary, workspaces = decoded(entry, batch)
    found = replay(memory, initial, stream, boundary, lambda block: "temporary", workspaces=workspaces)
    return found.peak_allocated, found.peak_reserved
