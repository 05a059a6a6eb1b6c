"""A training loop that is not ours: its peak to the byte however it drops gradients, its numbers unchanged, its end whatever it is."""

import contextlib
import copy
import gc
import importlib.metadata
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from real_steps import measured, tiny
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import FlopCounterMode

import refta
import refta_profiler
from refta_profiler import devices, evidence, models, workload
from refta_profiler.errors import ScenarioError
from refta_profiler.flops import FlopCounter
from refta_profiler.measure import environment, loop_folder, loop_rows, loop_shapes, loop_start, subject, timing, window
from refta_profiler.report import write as write_report
from refta_profiler.results import from_csv, to_pandas
from refta_profiler.run_folder import RunFolder

torch.set_num_threads(1)
STEPS = 9  # two of warm-up, five timed, one each for memory and FLOPs
MEMORY_STEP = 7  # from 0


class Loop:
    """A loop as people write them, with everything that decides when a block goes."""

    def __init__(self, *, zero="begin", to_none=True, accumulate=1, clip=None, keep=False):
        self.zero, self.to_none, self.accumulate, self.clip, self.keep = zero, to_none, accumulate, clip, keep
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(40, 90), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(90, 5))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.data = torch.randn(4, 64, 40), torch.randint(5, (4, 64))

    def run(self, steps=STEPS):
        losses, outputs, loss = [], None, None
        for step in range(steps):
            self.drop("begin")
            for part in range(self.accumulate):
                place = (step * self.accumulate + part) % 4
                inputs, labels = self.data[0][place].clone(), self.data[1][place].clone()
                outputs = self.model(inputs)
                loss = torch.nn.functional.cross_entropy(outputs, labels)
                if part == 0:
                    self.drop("between")
                loss.backward()
                losses.append(loss.item())
                if not self.keep:
                    outputs = loss = None
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.drop("end")
        del outputs, loss
        return losses

    def drop(self, place):
        if self.zero == place:
            self.optimizer.zero_grad(set_to_none=self.to_none)


LOOPS = {
    **{f"zero_grad at the {zero}": {"zero": zero} for zero in ("begin", "end")},
    "zero_grad between forward and backward": {"zero": "between"},
    "zeroed and not dropped": {"to_none": False},
    "accumulated": {"accumulate": 3},
    "accumulated, dropped in between": {"accumulate": 2, "zero": "between", "keep": True},
    "clipped": {"clip": 0.1, "zero": "end"},
    "outputs and loss kept": {"keep": True},
    "all at once": {"keep": True, "clip": 0.1, "accumulate": 2, "zero": "between", "to_none": False},
}


def live_bytes():
    gc.collect()
    return sum(storage.nbytes() for storage in window.live_storages(torch.device("cpu")))


def reference(**settings):
    """(bytes live when the memory step begins, its peak) from a profiler that runs from before the model is built: no block is older."""

    done = []

    def mark(name):
        if len(done) == MEMORY_STEP and name == "begins":
            gc.collect()  # as the instrument does
        done.extend([1] if name == "ends" else [])
        with record_function(name):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loop = Loop(**settings)
        loop.model.register_forward_pre_hook(lambda *_: mark("begins"))
        loop.optimizer.register_step_post_hook(lambda *_: mark("ends"))
        loop.run()
    live, step, at_start, peak = {}, 0, None, 0
    for name, address, nbytes in events(profiler.profiler.kineto_results.experimental_event_tree()):
        if nbytes > 0:
            live[address] = nbytes
        elif nbytes < 0:
            live.pop(address, None)  # what is not there is of an earlier test: the profiler remembers the blocks of earlier windows
        running = sum(live.values())
        if name == "begins" and step == MEMORY_STEP and at_start is None:
            at_start = running
        step += name == "ends"
        peak = max(peak, running) if at_start is not None and step == MEMORY_STEP else peak
    return at_start, peak


def known(profiled):
    """The statuses of the rows; a loop in one process has no noise floor."""
    return {row.status for row in profiled.rows if row.metric != "noise_fraction"}


def events(nodes):
    """(name, address, bytes) of every event of a tree in order of time; address and bytes are 0 but for allocations (+) and frees (−)."""
    found, waiting = [], list(nodes)
    while waiting:
        node = waiting.pop()
        waiting += node.children
        block = (node.extra_fields.ptr, node.extra_fields.alloc_size) if node.name == "[memory]" else (0, 0)
        found.append((node.start_time_ns, node.name, *block))
    return [event[1:] for event in sorted(found, key=lambda event: event[0])]


def values(profiled):
    return {row.metric: row.value for row in profiled.rows}


@pytest.mark.parametrize("name", LOOPS)
def test_the_peak_is_exact_however_a_loop_drops_its_blocks(name):
    expected = reference(**LOOPS[name])
    others = live_bytes()
    loop = Loop(**LOOPS[name])
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
        loop.run()
    found = values(p)
    assert (found["static_bytes"] - others, found["peak_allocated_bytes"] - others) == expected


def test_a_second_profile_of_one_process_is_as_exact():
    found = []
    for _ in range(2):
        others = live_bytes()
        loop = Loop(keep=True, zero="between")
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
            loop.run()
        found.append(values(p)["peak_allocated_bytes"] - others)
        del loop, p
    assert found[0] == found[1]


def test_batches_that_torch_did_not_allocate_go_with_the_step():
    """A batch on numpy's memory is counted when the step begins, and gone when the loop lets go of it before the peak."""
    peaks = []
    for drop in (False, True):
        others = live_bytes()
        loop = Loop()
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine", batch=1) as p:
            for _ in range(STEPS):
                batch = torch.from_numpy(torch.zeros(1_000_000).numpy().copy())
                loss = loop.model(batch[:40].clone()).sum()
                if drop:
                    del batch
                ballast = torch.zeros(2_000_000)
                loss.backward()
                loop.optimizer.step()
                del ballast, loss
        peaks.append(values(p)["peak_allocated_bytes"] - others)
        del loop, p
        batch = None
    assert peaks[0] - peaks[1] == 4_000_000


@pytest.mark.parametrize("label", ["refta/reconstruct", "lora"])
def test_our_own_step_measured_as_somebody_elses(label):
    point = tiny("roberta-tiny", label)
    real = measured(point)
    work = workload.build(point, torch.device("cpu"))
    with models.without_packing(), refta_profiler.profile(work.model, work.optimizer, label=label) as p:
        for _ in range(STEPS):
            workload.training_step(work)
    found, row = values(p), p.rows[0]
    assert found["peak_allocated_bytes"] - found["static_bytes"] == real.peak_allocated_bytes - real.static_bytes
    assert found["static_bytes"] - p.found.other_bytes <= real.static_bytes <= found["static_bytes"]
    assert found["forward_flops"] == real.flops_by_phase["forward"]
    assert found["step_flops"] == sum(real.flops_by_phase.values())
    assert found["trainable_parameters"] == real.trainable_parameters
    assert found["tokens"] == point.batch * point.seq
    assert (row.method, row.order, row.batch, row.seq, row.precision) == (point.method, point.order, point.batch, point.seq, "fp32")
    assert row.rank == (4 if label == "lora" else None)
    assert min(found[f"{phase}_seconds"] for phase in workload.PHASES) > 0
    assert known(p) == {"ok"}


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2, "keep": True}])
def test_the_loops_numbers_are_what_they_were(settings):
    plain = Loop(**settings).run(12)
    loop = Loop(**settings)
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine"):
        assert loop.run(12) == plain
    assert_clean(loop)


def assert_clean(loop):
    hooks = (loop.model._forward_pre_hooks, loop.model._forward_hooks, torch.nn.modules.module._global_forward_pre_hooks)
    assert not any(hooks)
    assert not loop.optimizer._optimizer_step_pre_hooks and not loop.optimizer._optimizer_step_post_hooks
    assert _get_current_dispatch_mode() is None
    assert not torch.autograd._profiler_enabled()


@pytest.mark.parametrize("at", [1, 4, MEMORY_STEP + 1, STEPS])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_exception_of_the_loop_passes_through_and_leaves_nothing_behind(at, where):
    loop, calls = Loop(), []

    def fail(*_):
        calls.append(1)
        if len(calls) == at:
            raise ZeroDivisionError("mine")

    (loop.model[0].register_forward_hook if where == "forward" else loop.model[3].register_full_backward_hook)(fail)
    with pytest.raises(ZeroDivisionError, match="mine"):
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
            loop.run()
    assert_clean(loop)
    broken = {row.metric: row for row in p.rows if row.status != "ok"}
    assert ("peak_allocated_bytes" in broken) == (at <= MEMORY_STEP + 1)
    assert broken["step_flops"].note.startswith(f"the loop ended in step {at}: ZeroDivisionError: mine")


def test_running_out_of_memory_is_a_row():
    loop = Loop()
    with pytest.raises(torch.OutOfMemoryError):
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
            loop.run(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert {row.metric: row.status for row in p.rows}["peak_allocated_bytes"] == "oom"


@pytest.mark.parametrize(("steps", "there"), [(1, set()), (4, {"time"}), (8, {"time", "memory"}), (9, {"time", "memory", "flops"})])
def test_a_loop_that_ends_too_early_says_what_is_missing(steps, there):
    loop = Loop()
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
        loop.run(steps)
    rows = {row.metric: row for row in p.rows}
    for kind, metric in {"time": "step_seconds", "memory": "peak_allocated_bytes", "flops": "step_flops"}.items():
        row = rows[metric]
        assert (row.status == "ok") == (kind in there)
        assert row.status == "ok" or row.note.startswith(f"the loop ended after {steps} optimizer step")
    assert rows["trainable_parameters"].value == sum(one.numel() for one in loop.model.parameters())
    assert "run at least 9 steps" in str(p) or steps == 9


def test_another_model_than_the_loops():
    loop, other = Loop(), Loop()
    with refta_profiler.profile(loop.model, other.optimizer, label="mine") as p:
        loop.run()
    assert "is it this model and this optimizer" in next(row.note for row in p.rows if row.metric == "peak_allocated_bytes")


@pytest.mark.parametrize(
    ("way", "steps", "words"),
    [
        ("called", 0, "the loop ended before its model ran with gradients"),
        ("forward", 9, "9 optimizer steps, none after a forward of this model with gradients"),
        ("another", 1, "1 optimizer step, none after a forward of this model"),
    ],
)
def test_a_loop_of_which_nothing_was_seen_says_so(tmp_path, way, steps, words):
    loop, other = Loop(), Loop()
    model = other.model if way == "another" else loop.model
    with pytest.warns(UserWarning, match=words):
        with refta_profiler.profile(model, loop.optimizer, label="mine", folder=tmp_path / "mine") as p:
            assert str(p) == "mine: nothing was measured yet"
            for step in range(steps):
                call = loop.model.forward if way == "forward" else loop.model
                call(loop.data[0][step % 4]).sum().backward()
                loop.optimizer.step()
    assert p.rows == [] and words in str(p) and not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deep", "shallow", "file"]
)
def test_a_copy_of_the_model_is_no_part_of_the_loop(copied):
    """A best model that is kept, an average, a teacher: it runs as the model would, then and afterwards, and no step counts it."""
    loop = Loop()
    inputs = loop.data[0][0]
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine", warmup=1, steps=1) as p:
        loop.run(1)
        other = copied(loop.model)
        for _ in range(3):
            loop.optimizer.zero_grad()
            other(torch.cat([inputs] * 4))
            loop.model(inputs).sum().backward()
            other(inputs)
            loop.optimizer.step()
    assert known(p) == {"ok"} and p.rows[0].batch == len(inputs) and ", 2 forwards" not in p.rows[0].model
    assert torch.equal(copy.deepcopy(other).eval()(inputs), other.eval()(inputs))


@pytest.mark.parametrize(("before", "size"), [(1, (8, 16)), (4, (2, 4))], ids=["as it warmed up", "after timed steps"])
def test_memory_that_ran_out_is_told_at_the_size_that_it_ran_out_at(before, size):
    """What was measured keeps its own size, which the one that ran out is none of."""
    model, shapes = Padded(), [(2, 4)] * before + [(8, 16)]
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(torch.OutOfMemoryError):
        with refta_profiler.profile(model, optimizer, label="mine", warmup=2, steps=5) as p:
            for batch, seq in shapes:
                model(input_ids=torch.zeros(batch, seq, dtype=torch.long)).sum().backward()
                if seq == 16:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                optimizer.step()
    row = next(row for row in p.rows if row.metric == "peak_allocated_bytes")
    assert (row.status, row.batch, row.seq) == ("oom", *size)
    words = f"the loop ended in step {before + 1}, which had a forward of 8 examples of 16 tokens: OutOfMemoryError"
    assert row.note.startswith(words)
    timed = next(row for row in p.rows if row.metric == "step_seconds")
    assert (timed.status == "ok") == (before > 2)


def test_a_loop_that_accumulates_and_runs_out_as_it_warms_up_is_still_one_that_accumulates():
    model = Padded()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(torch.OutOfMemoryError):
        with refta_profiler.profile(model, optimizer, label="mine") as p:
            for step in range(2):
                for _ in range(4):
                    model(input_ids=torch.zeros(2, 4 + step, dtype=torch.long)).sum().backward()
                    if step:
                        raise torch.OutOfMemoryError("CUDA out of memory")
                optimizer.step()
    assert (p.rows[0].model, p.rows[0].batch, p.rows[0].seq) == ("Padded, 4 forwards a step", 2, 5)


def test_what_another_optimizer_trains_is_said():
    loop = Loop()
    first, second = loop.model[0], loop.model[3]
    loop.optimizer, other = (torch.optim.SGD(one.parameters(), lr=0.01) for one in (first, second))
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine", warmup=1, steps=1) as p:
        for _ in range(4):
            loop.run(1)
            other.step()
    notes = {row.metric: row.note for row in p.rows}
    words = f"{sum(one.numel() for one in second.parameters())} numbers of the model that require gradients are not this optimizer's"
    assert {metric for metric, note in notes.items() if words in note} == {
        "step_seconds",
        "optimizer_seconds",
        "peak_allocated_bytes",
        "step_flops",
    }


def test_one_at_a_time():
    loop = Loop()
    with refta_profiler.profile(loop.model, loop.optimizer, label="first"):
        with pytest.raises(ScenarioError, match=r"profile\(label='second'\): 'first' is being profiled; one at a time"):
            with refta_profiler.profile(loop.model, loop.optimizer, label="second"):
                raise AssertionError("not reached")
        loop.run()
    with refta_profiler.profile(loop.model, loop.optimizer, label="second") as p:
        loop.run()
    assert known(p) == {"ok"}
    with pytest.raises(ScenarioError, match="it has ended and holds its rows"), p:
        raise AssertionError("not reached")


def test_other_instruments_are_left_alone():
    loop = Loop()
    with FlopCounterMode(display=False), refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
        with profile(activities=[ProfilerActivity.CPU]):
            loop.run()
    rows = {row.metric: row for row in p.rows}
    assert rows["peak_allocated_bytes"].note == "another torch profiler was running in the step that was to be measured"
    assert rows["step_flops"].note == "another torch dispatch mode was active in the step that was to be counted"
    assert rows["step_seconds"].status == "ok"
    assert_clean(loop)


def test_evaluations_between_steps_are_no_part_of_a_step():
    peaks = []
    for evaluates in (False, True):
        others = live_bytes()
        loop = Loop()
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
            for _ in range(STEPS):
                loop.run(1)
                for without in (torch.no_grad(), torch.enable_grad()) if evaluates else ():
                    with without:
                        loop.model.eval()(torch.randn(3000, 40))
                loop.model.train()
        peaks.append(values(p)["peak_allocated_bytes"] - others)
        assert p.rows[0].batch == 64
        del loop, p
    assert peaks[0] == peaks[1]


def test_a_closure_has_no_phases_but_a_time():
    loop = Loop()
    optimizer = torch.optim.LBFGS(loop.model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = loop.model(loop.data[0][0]).square().mean()
        loss.backward()
        return loss

    with refta_profiler.profile(loop.model, optimizer, label="mine") as p:
        for _ in range(STEPS):
            optimizer.step(closure)
    rows = {row.metric: row for row in p.rows}
    assert rows["step_seconds"].value > 0
    assert rows["forward_seconds"].value is None and "told apart" in rows["forward_seconds"].note


@pytest.mark.parametrize(
    ("fed", "batch", "seq"),
    [
        ({"input_ids": torch.zeros(3, 7, dtype=torch.long), "labels": torch.zeros(3)}, 3, 7),
        ({"labels": torch.zeros(3), "inputs_embeds": torch.zeros(3, 9, 2)}, 3, 9),
        ({"x": [torch.tensor(1.0), torch.zeros(5, 4)]}, 5, None),
        ({"batch": {"ids": torch.zeros(2, 6, dtype=torch.int32)}}, 2, 6),
    ],
)
def test_sizes_are_read_off_the_inputs(fed: Mapping, batch, seq):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self, **_):
            return self.weight.sum()

    model = Model()
    optimizer = torch.optim.SGD(model.parameters())
    with refta_profiler.profile(model, optimizer, label="mine", warmup=1, steps=1) as p:
        for _ in range(4):
            model(**fed).backward()
            optimizer.step()
    assert (p.rows[0].batch, p.rows[0].seq, p.rows[0].model, p.rows[0].method) == (batch, seq, "Model", "own code")
    with pytest.raises(ScenarioError, match=r"say it: profile\(…, batch=8\)"):
        with refta_profiler.profile(model, optimizer, label="mine"):
            model()


def test_steps_of_several_shapes_are_said():
    loop = Loop()
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine", warmup=1, steps=1) as p:
        for size in (4, 5, 6, 7):
            loop.model(torch.randn(size, 40)).sum().backward()
            loop.optimizer.step()
    rows = {row.metric: row for row in p.rows}
    assert {row.batch for row in p.rows} == {7}
    assert "its forwards had 6 examples, and the row names the largest of all measured steps" in rows["peak_allocated_bytes"].note
    assert "its forwards" not in rows["step_flops"].note


class Padded(torch.nn.Module):
    """Tokens in, a number each out; a step may call it several times."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(100, 4)

    def forward(self, input_ids):
        return self.table(input_ids).sum()


def padded(lengths, *, forwards=1, folder=None, label="mine", **asked):
    """The profile of a loop whose steps have these lengths, each so many times."""
    model = Padded()
    optimizer = torch.optim.SGD(model.parameters())
    with refta_profiler.profile(model, optimizer, label=label, folder=folder, **asked) as p:
        for length in lengths:
            for _ in range(forwards):
                model(torch.zeros(2, length, dtype=torch.long)).backward()
            optimizer.step()
    return p


def test_lengths_that_differ_between_timed_steps_are_said():
    p = padded([128, 128, 12, 96, 50, 70, 31, 40, 31])
    rows = {row.metric: row for row in p.rows}
    assert {(row.batch, row.seq) for row in p.rows} == {(2, 96)} and rows["tokens"].value == 192  # those that warm up are not measured
    for metric in ("step_seconds", "forward_seconds", "tokens"):
        assert "its forwards had 2 examples, 12 to 96 tokens, and the row names the largest of all measured steps" in rows[metric].note
    assert "2 examples, 40 tokens" in rows["peak_allocated_bytes"].note and "2 examples, 31 tokens" in rows["step_flops"].note
    assert p.found.steps_of["time"] == [[(2, length)] for length in (12, 96, 50, 70, 31)]
    assert "its forwards" not in str(padded([8] * STEPS))


def test_accumulated_steps_are_another_setting_than_steps_of_one_forward(tmp_path):
    found = {}
    for label, forwards in {"one": 1, "four": 4}.items():
        p = padded([8] * 4, forwards=forwards, folder=tmp_path / "mine", label=label, warmup=1, steps=1)
        found[label] = {row.metric: row for row in p.rows}
    assert "forwards in a step" not in found["one"]["step_seconds"].note
    for metric in ("step_seconds", "peak_allocated_bytes", "step_flops", "tokens"):
        assert "4 forwards in a step" in found["four"][metric].note
    assert {row.model for row in found["four"].values()} == {"Padded, 4 forwards a step"}
    candidates = evidence.candidates(RunFolder.open(tmp_path / "mine").rows(), "cpu")
    assert len({one.setting for one in candidates}) == len(candidates) == 2


@pytest.mark.parametrize(
    ("counts", "usual", "words"),
    [
        ([1, 1, 1], 1, ""),
        ([4, 4, 5], 4, "4 to 5 forwards in a step"),
        ([1, 3], 3, "1 to 3 forwards in a step"),
        ([2], 2, "2 forwards in a step"),
    ],
)
def test_forwards_of_steps_by_hand(counts, usual, words):
    steps = [[(8, None)] * count for count in counts]
    assert (loop_shapes.usual_forwards(steps), loop_shapes.forwards_words(steps)) == (usual, words)


def test_the_largest_forward_is_one_that_there_was():
    assert loop_shapes.largest([[(8, 12)], [(2, 96), (8, 24)]]) == (8, 24)
    assert loop_shapes.largest([[(3, None)], [(5, None)]]) == (5, None)


def test_autocast_and_checkpointing_are_seen():
    loop = Loop()
    loop.model.gradient_checkpointing = True
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine", warmup=1, steps=1) as p:
        for _ in range(4):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loop.model(loop.data[0][0]).float().square().mean()
            loss.backward()
            loop.optimizer.step()
    assert (p.rows[0].precision, p.rows[0].checkpointing) == ("amp-bf16", True)


def test_a_model_of_peft():
    import peft

    plain = models.build(tiny("roberta-tiny", "head"), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by an older name
        model = peft.get_peft_model(plain, peft.LoraConfig(r=3, target_modules=["query", "value"]))
    batch = models.batch(tiny("roberta-tiny", "head"), "cpu")
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    with refta_profiler.profile(model, optimizer, label="peft's", warmup=1, steps=1) as p:
        for _ in range(4):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    row = p.rows[0]
    assert (row.model, row.method, row.rank, row.batch, row.seq) == (type(plain).__name__, "lora", 3, 2, 8)


def test_a_label_stands_for_the_last_loop_that_had_it(tmp_path):
    """LoRA at another rank under the same label is another point; the report would mix the two."""
    for rank in (4, 8):
        p = padded([8] * 4, folder=tmp_path / "mine", label="lora", warmup=1, steps=1, method="lora", rank=rank)
    for rank in (16, 8):  # broken off at once, they replace nothing
        padded([8], folder=tmp_path / "mine", label="lora", warmup=1, steps=1, method="lora", rank=rank)
    p = padded([8] * 4, folder=tmp_path / "mine", label="other", warmup=1, steps=1)
    run = RunFolder.open(tmp_path / "mine")
    assert list(dict.fromkeys((row.label, row.rank) for row in run.rows())) == [("lora", 8), ("other", p.rows[0].rank)]
    told = run.environment()
    assert [one["label"] for one in told["sessions"]] == ["lora"] * 4 + ["other"]
    assert {row.status for row in run.rows() if row.metric in ("step_seconds", "peak_allocated_bytes")} == {"ok"}
    for one in told["sessions"]:
        assert one["started"] <= one["ended"] and one["versions"]["torch"] == importlib.metadata.version("torch")
        assert one["did"] == {"profiled loop": 1} and one["wall_seconds"] >= 0
    assert "1 profiled loop, labelled other" in write_report(run, ("md",))[0].read_text()


def test_labels_of_one_folder_are_compared(tmp_path):
    folder = tmp_path / "mine"
    for order in ("shared", "reconstruct"):
        model = models.build(tiny("roberta-tiny", "head"), "cpu")
        refta.adapt(model, "refta", rank=5, order=order)
        batch = models.batch(tiny("roberta-tiny", "head"), "cpu")
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
        for _ in range(2 if order == "shared" else 1):  # the second replaces the first
            with refta_profiler.profile(model, optimizer, label=f"refta/{order}", folder=folder, warmup=1, steps=1, rank=5) as p:
                for _ in range(4):
                    optimizer.zero_grad()
                    model(**batch).loss.backward()
                    optimizer.step()
    run = RunFolder.open(folder)
    rows = from_csv((folder / "results.csv").read_text())
    assert rows == run.rows() and [row for row in rows if row.label == "refta/reconstruct"] == p.rows
    assert list(dict.fromkeys((row.label, row.order) for row in rows)) == [("refta/shared", "shared"), ("refta/reconstruct", "reconstruct")]
    report = write_report(run, ("md",))[0].read_text()
    assert "`refta/shared`" in report and "best other order" in report
    assert "predicted for" not in report and "run --resume" not in report and "scenario.yaml      #" not in report
    assert p.to_pandas().equals(to_pandas(p.rows))


@pytest.mark.parametrize("content", ["scenario.yaml", "thesis.docx"])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    (tmp_path / content).write_text("name: vit_l\n")
    loop = Loop()
    with pytest.raises(ScenarioError, match="holds something else than earlier profiles"):
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine", folder=tmp_path):
            raise AssertionError("not reached")
    assert_clean(loop)


def test_a_folder_that_a_killed_process_left_is_taken(tmp_path, monkeypatch):
    """The scenario comes first, within the lock: what a kill before it leaves is no other's folder."""
    write_whole = loop_folder.write_whole
    monkeypatch.setattr(loop_folder, "write_whole", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        padded([8] * 4, folder=tmp_path / "mine", warmup=1, steps=1)
    assert [one.name for one in (tmp_path / "mine").iterdir()] == [".lock"]
    (tmp_path / "mine" / ".scenario.yaml.7.tmp").write_text("# half")
    monkeypatch.setattr(loop_folder, "write_whole", write_whole)
    p = padded([8] * 4, folder=tmp_path / "mine", warmup=1, steps=1)
    assert RunFolder.open(tmp_path / "mine").rows() == p.rows


def test_a_folder_that_another_loop_writes_is_waited_for(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    padded([8] * 4, folder=folder, label="first", warmup=1, steps=1)
    held = RunFolder(folder).lock()
    held.__enter__()
    threading.Timer(0.5, lambda: held.__exit__(None, None, None)).start()
    padded([8] * 4, folder=folder, label="second", warmup=1, steps=1)
    assert {row.label for row in RunFolder.open(folder).rows()} == {"first", "second"}
    monkeypatch.setattr(loop_folder, "PATIENCE_S", 0.2)
    with RunFolder(folder).lock(), pytest.raises(ScenarioError, match="another process is running in this folder"):
        padded([8] * 4, folder=folder, label="third", warmup=1, steps=1)


def test_rank_0_alone_writes_the_folder(tmp_path, monkeypatch):
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        p = padded([8] * 4, folder=tmp_path / "mine", warmup=1, steps=1)
        assert f"it is rank {rank}'s alone, of 2" in next(row.note for row in p.rows if row.metric == "step_seconds")
        assert (tmp_path / "mine").exists() == (rank == 0)
    assert RunFolder.open(tmp_path / "mine").rows() == p.rows


def test_a_process_of_its_own_is_rank_0_of_1(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert loop_start.ranks() == (0, 1)
    monkeypatch.setenv("RANK", "first")
    assert loop_start.ranks() == (0, 1)


def test_a_process_group_knows_better_than_the_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    for name, answer in {"is_initialized": True, "get_rank": 3, "get_world_size": 4}.items():
        monkeypatch.setattr(torch.distributed, name, lambda answer=answer: answer)
    assert loop_start.ranks() == (3, 4)


def refused(model, optimizer, words):
    """The loop is refused in these words before there is a hook, and another can be profiled at once."""
    with pytest.raises(ScenarioError, match=words):
        with refta_profiler.profile(model, optimizer, label="mine"):
            raise AssertionError("not reached")
    hooks = (model._forward_pre_hooks, model._forward_hooks)
    assert not any(hooks)
    padded([8] * 4, warmup=1, steps=1)


def test_a_device_that_is_not_known_is_refused():
    model = torch.nn.Linear(2, 2, device="meta")
    optimizer = torch.optim.SGD(model.parameters())
    refused(model, optimizer, r"profile\(label='mine'\): the model's parameters are on meta; a loop is measured on cpu or cuda alone")


class Placed(torch.nn.Linear):
    """Parameters that say they are on these devices."""

    def __init__(self, *places):
        super().__init__(2, 2)
        self.places = [SimpleNamespace(device=torch.device(place)) for place in places]

    def parameters(self, recurse=True):
        return iter(self.places)


def test_several_devices_are_refused():
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters())
    refused(
        Placed("cuda:1", "cuda:0", "cuda:1"), optimizer, r"are on cuda:0, cuda:1; a loop is measured on one device: put the whole model"
    )
    refused(Placed(), optimizer, "the model has no parameters")
    assert loop_start.device_of(Placed("cuda:1", "cuda:1"), "here") == torch.device("cuda:1")


def test_data_parallel_is_refused():
    wrapped = torch.nn.DataParallel(torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(wrapped.parameters())
    wrapped.device_ids = [0, 1]
    refused(wrapped, optimizer, "DataParallel runs the model on 2 GPUs in one process, which cannot be measured; start it with torchrun")
    wrapped.device_ids = []
    assert loop_start.device_of(wrapped, "here") == torch.device("cpu")


def test_the_device_of_the_model_is_named_and_not_the_current_one(monkeypatch):
    names = {"cuda": "NVIDIA A100-SXM4-80GB", "cuda:1": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: names[str(device or "cuda")])
    asked = []
    properties = SimpleNamespace(name="", total_memory=1, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: asked.append(number) or properties)
    monkeypatch.setattr(environment.gpu, "conditions", lambda number=0: asked.append(number))
    assert [devices.device_key(device) for device in ("cuda", "cuda:1")] == ["a100-80", "h100"]
    assert environment.describe("cuda:1")["device"] == "cuda: NVIDIA H100 80GB HBM3"
    assert asked == [1, 1]


def test_an_optimizer_that_is_not_torchs_is_refused():
    model = torch.nn.Linear(2, 2)
    refused(
        model,
        SimpleNamespace(step=None),
        r"the optimizer is a types\.SimpleNamespace; it must be a torch\.optim\.Optimizer, or hold one as its `optimizer`",
    )


def test_a_hook_that_cannot_be_put_on_leaves_none():
    class Strange(torch.optim.SGD):
        def register_step_post_hook(self, hook):
            raise TypeError("mine")

    loop = Loop()
    loop.optimizer = Strange(loop.model.parameters())
    with pytest.raises(TypeError, match="mine"):
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine"):
            raise AssertionError("not reached")
    assert_clean(loop)
    padded([8] * 4, warmup=1, steps=1)


def test_rows_that_cannot_be_made_do_not_replace_the_loops_own_exception(monkeypatch):
    monkeypatch.setattr(loop_rows, "device_key", lambda _: {}["no such device"])
    loop = Loop()
    with pytest.raises(ZeroDivisionError) as caught:
        with refta_profiler.profile(loop.model, loop.optimizer, label="mine"):
            loop.run(1)
            _ = 1 / 0
    assert "no such device" in caught.value.__notes__[0]


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_before_the_training_does_not_say_what_training_is(training):
    """A look at the model's outputs with gradients, in the other mode, is no step's first forward for good."""
    loop = Loop()
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
        loop.model.train(not training)(torch.randn(3, 40))
        loop.model.train(training)
        loop.run()
    assert known(p) == {"ok"} and p.rows[0].batch == 64 and "forwards" not in p.rows[0].model


def test_what_a_backward_waits_for_at_its_end_is_the_backwards():
    """DDP waits for its reductions in a callback that it queues within the backward, after ours."""
    loop, engine = Loop(), torch.autograd.Variable._execution_engine
    loop.model[0].weight.register_post_accumulate_grad_hook(lambda _: engine.queue_callback(lambda: time.sleep(0.1)))
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine", warmup=1, steps=1) as p:
        loop.run(4)
    found = values(p)
    assert found["backward_seconds"] > 0.1 > found["optimizer_seconds"]


class Graphs:
    """A backend that compiles nothing, and counts what it is given."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


class Compiled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))

    def forward(self, rows):
        return self.layers(rows).sum()


@pytest.mark.parametrize("way", ["method", "wrapped", "within"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_loop_is_compiled_as_it_would_be(way, before, fullgraph):
    torch.compiler.reset()
    graphs, model = Graphs(), Compiled()
    called = model if way == "method" else torch.compile(model, backend=graphs, fullgraph=fullgraph)
    if way == "method":
        model.compile(backend=graphs, fullgraph=fullgraph)
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        called(torch.ones(3, 8)).backward()
        optimizer.step()

    step() if before else None
    with refta_profiler.profile(called if way == "wrapped" else model, optimizer, label="mine", warmup=1, steps=1) as p:
        for _ in range(4):
            step()
    assert p.finished and known(p) == {"ok"} and p.rows[0].model == "Compiled"
    step()
    assert graphs.count == 1
    called(torch.ones(3, 8).requires_grad_()).backward()  # other guards: it is compiled anew, and so still compiled at all
    assert graphs.count == 2
    assert values(p)["forward_flops"] == 2 * 3 * (8 * 16 + 16 * 4)
    torch.compiler.reset()


@pytest.mark.parametrize("steps", [3, 4])
def test_what_is_compiled_is_not_left_running_eagerly(steps):
    """Neither where the loop ends before operations are counted, nor where another mode forbids to count them."""
    torch.compiler.reset()
    graphs, model = Graphs(), Compiled()
    compiled = torch.compile(model, backend=graphs)
    optimizer = torch.optim.SGD(model.parameters())
    with refta_profiler.profile(compiled, optimizer, label="mine", warmup=1, steps=1) as p:
        for step in range(steps):
            with FlopCounter() if step == 3 else contextlib.nullcontext():
                compiled(torch.ones(3, 8)).backward()
                optimizer.step()
    assert next(row for row in p.rows if row.metric == "step_flops").value is None
    compiled(torch.ones(3, 8).requires_grad_())
    assert graphs.count == 2
    torch.compiler.reset()


def test_autocast_that_accelerate_puts_around_a_forward_is_seen_without_a_hook():
    loop = Loop()
    assert subject.autocast_within(loop.model) is None
    loop.model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(loop.model.forward)
    assert subject.autocast_within(loop.model) == torch.bfloat16


@pytest.mark.parametrize("name", ["warmup", "steps"])
def test_a_schedule_needs_a_step_of_each(name):
    loop = Loop()
    with pytest.raises(ScenarioError, match=f"{name}=0; it must be at least 1"):
        refta_profiler.profile(loop.model, loop.optimizer, label="mine", **{name: 0})


def test_importing_the_package_loads_no_torch():
    code = "import sys, refta_profiler; dir(refta_profiler); assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'profiles'"):
        _ = refta_profiler.profiles


def test_the_docstrings_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = refta_profiler.profile.__doc__.splitlines()
    starts, ends = (next(i for i, line in enumerate(lines) if line.strip().startswith(word)) for word in ("import torch", "print(p)"))
    exec("\n".join(line[8:] for line in lines[starts : ends + 1]))  # the text is this repository's own
    assert "peak_allocated_bytes" in capsys.readouterr().out
    assert (tmp_path / "reports" / "mine" / "results.csv").exists()


def test_marks_and_known_frees_of_an_event_tree():
    from types import SimpleNamespace as Node

    from torch._C._profiler import _EventType

    def block(at, place, size):
        fields = Node(ptr=place, alloc_size=size, device=torch.device("cpu"))
        return Node(start_time_ns=at, name="[memory]", tag=_EventType.Allocation, extra_fields=fields, children=[])

    mark = Node(start_time_ns=3, name=f"{window.FREED}100", tag=_EventType.TorchOp, extra_fields=None, children=[block(2, 7, 40)])
    stale = block(1, 9, -999)  # the profiler knows that address from an earlier window
    assert window.changes([block(4, 7, -40), mark, stale, block(5, 9, 8)]) == [40, -100, -40, 8]


def test_a_cuda_window_asks_the_allocator(monkeypatch):
    asked = []
    for name, answer in {"synchronize": None, "reset_peak_memory_stats": None, "memory_allocated": 10, "max_memory_allocated": 30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, answer=answer: asked.append(name) or answer)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 64)
    one = window.CudaWindow(torch.device("cuda", 0))
    one.start([])
    assert one.stop() == {"static_bytes": 10, "peak_allocated_bytes": 30, "peak_reserved_bytes": 64}
    assert all(a != b for a, b in pairwise(asked)) and asked.index("reset_peak_memory_stats") < asked.index("memory_allocated")


@pytest.mark.gpu
def test_a_loop_on_a_gpu():
    loop = Loop()
    loop.model.cuda()
    loop.data = tuple(one.cuda() for one in loop.data)
    with refta_profiler.profile(loop.model, loop.optimizer, label="mine") as p:
        loop.run()
    found = values(p)
    assert 0 < found["static_bytes"] < found["peak_allocated_bytes"] <= found["peak_reserved_bytes"]
    assert found["backward_seconds"] > 0
    assert all(-1e-4 < one[timing.REST] < sum(one.values()) for one in p.found.samples)  # the two clocks may differ by some microseconds
