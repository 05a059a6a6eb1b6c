"""Time by module: events made by hand."""

from types import SimpleNamespace

import pytest

from refta_profiler.measure import module_times
from refta_profiler.measure.module_times import NODE
from refta_profiler.measure.modules import MODULE


def event(name, seconds, *children, sequence=-1, thread=1, forward_thread=1):
    made = SimpleNamespace(name=name, seconds=seconds, sequence_nr=sequence, cpu_parent=None, cpu_children=list(children))
    made.thread, made.fwd_thread = thread, forward_thread
    for child in children:
        child.cpu_parent = made
    return made


def flat(events):
    return [one for event in events for one in (event, *flat(event.cpu_children))]


@pytest.fixture
def found():
    mm = event("aten::mm", 2.0, sequence=7)
    layers = [event(f"{MODULE}layer.{index}", 3.0, *inside) for index, inside in enumerate([[mm], []])]
    forward = event(f"{MODULE}(model)", 10.0, event("aten::add", 1.0, sequence=8), *layers)
    again = event(f"{MODULE}layer.0", 3.5, event("aten::mm", 2.0, sequence=30))
    backward = [
        event(f"{NODE}MmBackward0", 8.0, again, event("aten::mm", 4.0, sequence=8), sequence=7),
        event(f"{NODE}AddBackward0", 1.0, sequence=8),
        event(f"{NODE}torch::autograd::AccumulateGrad", 0.25),
    ]
    return module_times.of(flat([forward, *backward]), time=lambda one: one.seconds)


def row(found, name):
    return next(one for one in found["rows"] if one["module"] == name)


def test_layers_are_taken_together(found):
    layers = row(found, "layer.*")
    assert (layers["modules"], layers["calls"], layers["forward_seconds"]) == (2, 2, 6.0)


def test_a_forward_within_a_backward_node_is_recomputed(found):
    assert row(found, "layer.*")["recompute_seconds"] == 3.5
    assert row(found, "(model)")["recompute_seconds"] == 3.5  # which is around it in forward


def test_a_node_belongs_to_the_module_that_made_it_without_what_is_recomputed_in_it(found):
    assert row(found, "layer.*")["backward_seconds"] == 8.0 - 3.5
    assert row(found, "(model)")["backward_seconds"] == 4.5 + 1.0
    assert found["unattributed_seconds"] == 0.25


def test_own_time_is_without_the_modules_within(found):
    assert row(found, "(model)")["own_seconds"] == (10.0 - 6.0) + 1.0
    assert row(found, "layer.*")["own_seconds"] == 6.0 + 3.5 + 4.5
    total = sum(one["own_seconds"] for one in found["rows"]) + found["unattributed_seconds"]
    assert total == 10.0 + 8.0 + 1.0 + 0.25


def test_a_forward_that_another_thread_runs_again_makes_none_of_the_firsts_nodes():
    """On CUDA checkpointing runs it in backward's thread, which counts from 0 on: its 7 is another node than forward's."""
    first, last = (event(f"{MODULE}{name}", 1.0, event("aten::mm", 1.0, sequence=number)) for name, number in (("first", 7), ("last", 8)))
    again = event(f"{MODULE}last", 2.0, event("aten::mm", 2.0, sequence=7, thread=2), thread=2)
    backward = [
        event(f"{NODE}MmBackward0", 10.0, again, sequence=8, thread=2),
        event(f"{NODE}MmBackward0", 4.0, sequence=7, thread=2),
    ]
    found = module_times.of(flat([first, last, *backward]), time=lambda one: one.seconds)
    assert (row(found, "first")["backward_seconds"], row(found, "last")["backward_seconds"]) == (4.0, 8.0)
    assert row(found, "last")["recompute_seconds"] == 2.0


def test_a_step_without_events():
    assert module_times.of([], time=lambda one: 0.0) == {"rows": [], "unattributed_seconds": 0.0}
