"""A plain Trainer of transformers: the callback's peak is what the CPU profiler says of the same step, and the training stays as it was."""

import gc
import warnings
from types import SimpleNamespace

import pytest
import torch
from real_steps import tiny
from torch.profiler import ProfilerActivity, profile, record_function

import refta_profiler
from refta_profiler import models
from refta_profiler.errors import ScenarioError
from refta_profiler.measure import window
from refta_profiler.run_folder import RunFolder

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="the Trainer needs the accelerate library")
torch.set_num_threads(1)
STEP = 8  # of the memory: after two of warm-up and five timed


class Examples(torch.utils.data.Dataset):
    """Tokens and a label each, drawn once."""

    def __init__(self):
        torch.manual_seed(1)
        self.tokens, self.labels = torch.randint(5, 100, (64, 8)), torch.randint(3, (64,))

    def __len__(self):
        return 64

    def __getitem__(self, place):
        return {"input_ids": self.tokens[place], "labels": self.labels[place]}


class CpuProfiler(transformers.TrainerCallback):
    """Runs torch.profiler over one step, and sums its memory events itself.

    It may start some steps earlier, so that it knows the blocks that the step frees though the step before allocated them.
    """

    def __init__(self, lead):
        self.starts, self.before, self.peak, self.profiler = STEP - 1 - lead, 0, 0, None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.starts:
            self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profiler.start()
        if state.global_step == STEP - 1:
            assert all(one.grad is None for one in kwargs["model"].parameters())
            gc.collect()
            self.before = all_tensors()
            with record_function("the step begins"):
                pass

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STEP:
            self.profiler.stop()
            running = highest = 0
            for event in sorted(self.profiler.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
                running += event.nbytes() if event.name() == "[memory]" else 0
                highest = max(highest, running)
                if event.name() == "the step begins":
                    running = highest = 0
            self.peak = self.before + highest


def all_tensors():
    """Bytes of every CPU tensor that the garbage collector lists, each memory once."""
    found = {}
    for one in gc.get_objects():
        if (
            issubclass(type(one), torch.Tensor) and type(one).__name__ != "FakeTensor" and one.device.type == "cpu"
        ):  # torch.compile keeps fake ones
            found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    found.pop(0, None)
    return sum(found.values())


class Losses(transformers.TrainerCallback):
    """The loss of every step."""

    def __init__(self):
        self.found = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.found += [logs["loss"]] if "loss" in logs else []


def train(folder, *callbacks, steps=9, fails=False, **settings):
    """The model's parameters and losses after a training with these callbacks."""
    model = models.build(tiny("roberta-tiny", "full"), "cpu")
    if fails:
        model.classifier.register_full_backward_hook(lambda *_: 1 / 0)
    losses = Losses()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the Trainer's own
        trainer = transformers.Trainer(model, arguments, train_dataset=Examples(), callbacks=[losses, *callbacks])
        trainer.train()
    return losses.found, [one.detach().clone() for one in model.parameters()]


def values(callback):
    return {row.metric: row.value for row in callback.rows}


@pytest.mark.parametrize(
    ("lead", "settings"),
    [(0, {}), (1, {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1})],  # the second drops the loss so far within its step
    ids=["plain", "accumulated"],
)
def test_the_peak_of_a_plain_trainer_is_the_cpu_profilers(tmp_path, lead, settings):
    reference = CpuProfiler(lead)
    losses, weights = train(tmp_path, reference, **settings)
    del weights
    gc.collect()
    others = all_tensors()
    callback = refta_profiler.TrainerCallback(label="mine")
    assert train(tmp_path, callback, **settings)[0] == losses
    gc.collect()
    assert all_tensors() == others  # nothing of a training stays, so both saw the same tensors beside their own
    found = values(callback)
    assert found["peak_allocated_bytes"] == reference.peak
    assert {row.status for row in callback.rows if row.metric != "noise_fraction"} == {"ok"}


def test_the_training_is_what_it_was(tmp_path):
    plain, weights = train(tmp_path)
    profiled, same = train(tmp_path, refta_profiler.TrainerCallback(label="mine"))
    assert len(plain) == 9 and plain == profiled
    assert all(torch.equal(one, other) for one, other in zip(weights, same, strict=True))


def test_its_rows_and_its_folder(tmp_path):
    callback = refta_profiler.TrainerCallback(label="mine", folder=tmp_path / "mine", warmup=1, steps=1)
    assert str(callback) == "mine: nothing was measured yet"
    train(tmp_path / "trained", callback, steps=4, bf16=True)
    row = callback.rows[0]
    assert (row.model, row.batch, row.seq, row.precision) == ("RobertaForSequenceClassification", 2, 8, "amp-bf16")
    assert "peak_allocated_bytes" in str(callback) and (tmp_path / "mine" / "results.csv").exists()
    assert callback.to_pandas()["metric"].tolist() == [row.metric for row in callback.rows]


def test_a_training_that_breaks_off_is_ended_by_hand(tmp_path):
    callback = refta_profiler.TrainerCallback(label="first")
    with pytest.raises(ZeroDivisionError) as caught:
        train(tmp_path, callback, fails=True)
    with pytest.raises(ScenarioError, match="'first' is being profiled"):
        train(tmp_path, refta_profiler.TrainerCallback(label="second"))
    callback.stop(caught.value)
    assert "the loop ended in step 1: ZeroDivisionError" in next(row.note for row in callback.rows if row.metric == "step_flops")
    assert window.live_storages(torch.device("cpu")) and not torch.autograd._profiler_enabled()


@pytest.mark.parametrize("precision", ["fp32", "amp-bf16"])
def test_a_compiled_training_is_compiled_once(tmp_path, precision):
    """What the callback is given lies within what torch.compile made of it."""
    settings, counts = {"torch_compile": True, "torch_compile_backend": "eager", "bf16": precision == "amp-bf16"}, []
    for callbacks in ([], [refta_profiler.TrainerCallback(label="mine", warmup=1, steps=1)]):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dynamo's own
            train(tmp_path, *callbacks, steps=6, **settings)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch.compiler.reset()
    assert counts[0] == counts[1] > 0
    assert {row.status for row in callbacks[0].rows if row.metric != "noise_fraction"} == {"ok"}
    assert (callbacks[0].rows[0].model, callbacks[0].rows[0].precision) == ("RobertaForSequenceClassification", precision)


def test_several_gpus_in_one_process_are_refused():
    """The Trainer wraps the model in DataParallel itself, out of its callbacks' sight."""
    callback = refta_profiler.TrainerCallback(label="mine")
    with pytest.raises(ScenarioError, match=r"TrainerCallback\(label='mine'\): DataParallel runs the model on 2 GPUs in one process"):
        callback.on_train_begin(SimpleNamespace(n_gpu=2), None, None, model=None, optimizer=None)


def test_a_folder_that_cannot_be_written_does_not_end_the_training(tmp_path):
    """The Trainer's end is before whatever saves the model."""
    callback = refta_profiler.TrainerCallback(label="mine", folder=tmp_path / "mine", warmup=1, steps=1)

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters())
    callback.on_train_begin(SimpleNamespace(n_gpu=1), None, None, model=model, optimizer=optimizer)
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    (tmp_path / "mine").write_text("a file by now")
    with pytest.warns(
        UserWarning, match=r"TrainerCallback\(label='mine'\): .* holds something else than earlier profiles.*its `rows` hold"
    ):
        callback.on_train_end(None, None, None)
    assert callback.rows[0].value


@pytest.mark.parametrize(("smaller", "status"), [(True, "oom"), (False, "error")])
def test_a_training_that_is_begun_anew_had_broken_off(tmp_path, smaller, status):
    """As a Trainer does that finds its batch size itself: memory ran out, and it begins again with half of it."""
    callback = refta_profiler.TrainerCallback(label="mine", folder=tmp_path / "mine", warmup=1, steps=1)
    arguments = SimpleNamespace(n_gpu=1)
    for batch in (8, 4):
        state = SimpleNamespace(train_batch_size=batch if smaller else 8)
        model = torch.nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters())
        callback.on_train_begin(arguments, state, None, model=model, optimizer=optimizer)
        loss = model(torch.ones(batch, 4)).sum()
    del loss
    callback.on_train_end(arguments, None, None)
    rows = RunFolder.open(tmp_path / "mine").rows()
    (first,) = [row for row in rows if (row.batch, row.metric) == (8, "peak_allocated_bytes")]
    assert first.status == status
    assert "the training was begun anew before it had ended" in first.note


def test_what_cannot_be_written_of_a_training_that_broke_off_does_not_end_the_next(tmp_path):
    callback = refta_profiler.TrainerCallback(label="mine", folder=tmp_path / "mine", warmup=1, steps=1)
    model = torch.nn.Linear(4, 2)
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters())}
    arguments = SimpleNamespace(n_gpu=1)
    callback.on_train_begin(arguments, None, None, **given)
    model(torch.ones(3, 4)).sum().backward()
    (tmp_path / "mine").write_text("a file by now")
    with pytest.warns(UserWarning, match="what was measured before could not be written either"), pytest.raises(ScenarioError):
        callback.on_train_begin(arguments, None, None, **given)  # which is refused for the same folder
