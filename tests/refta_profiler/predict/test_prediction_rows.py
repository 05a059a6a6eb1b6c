"""predict/rows.py: a point's predictions as rows, and what goes wrong as rows with a reason."""

import json
from dataclasses import replace

import pytest
from model_points import point
from real_steps import METHODS, measured, tiny
from transformers import GPT2Config

from refta.errors import SettingError
from refta_profiler.predict import closed_form, dryrun, rows
from refta_profiler.predict.storage import ODD


def values(found):
    return {row.metric: row.value for row in found}


def known(found):
    """All rows but the step's time, which a CPU that was not calibrated has none of."""
    return [row for row in found if row.metric != "step_seconds"]


def test_both_sources_of_a_point():
    point = tiny("vit-tiny", "refta/shared", batch=1, seq=197)
    closed, dry, run = rows.predict(point)
    assert {row.source for row in closed} == {"contraction"}
    assert {row.source for row in dry} == {"dryrun"}
    assert {row.status for row in [*closed, *known(dry)]} == {"ok"}
    assert {row.point for row in [*closed, *dry]} == {point.id}
    assert run is not None
    found = values(known(dry))
    assert found["peak_allocated_bytes"] == sum(
        value for name, value in found.items() if name.startswith("peak_") and name not in ("peak_allocated_bytes", "peak_reserved_bytes")
    )
    assert found["tokens"] == 197
    assert values(closed)["adapter_parameters"] == found["adapter_parameters"] == 2 * 5 * (192 + 192 + 1)


def test_adapter_flops_are_what_a_real_step_has_beyond_the_head_alone():
    """The closed form says what adapters add to the frozen base's forward: the difference that torch's counter measures."""
    point = tiny("vit-tiny", "refta/shared", batch=1, seq=197)
    closed = values(rows.predict(point)[0])
    base = measured(tiny("vit-tiny", "head", batch=1)).flops_by_phase["forward"]
    assert closed["forward_flops"] == measured(point).flops_by_phase["forward"] - base


def test_another_target_than_the_points():
    _, dry, _ = rows.predict(tiny("roberta-tiny", "lora"), "h100")
    assert {row.target for row in dry} == {"h100"}


@pytest.mark.parametrize(("rank", "precision", "said"), [(15, "amp-bf16", True), (16, "amp-bf16", False), (15, "fp32", False)])
def test_an_odd_rank_in_half_precision_is_said_to_take_time(rank, precision, said):
    settings = {**tiny("vit-tiny", "refta/shared").settings, "rank": rank}
    asked = replace(tiny("vit-tiny", "refta/shared"), batch=1024, seq=197, precision=precision, rank=rank, settings=settings)
    (note,) = [row.note for row in rows.predict(asked, "h100")[1] if row.metric == "step_seconds"]
    assert ("rows of 15 numbers, the rank, one at a time since they are odd: a rank of 16 would spare that" in note) is said


@pytest.mark.parametrize("rank", [1, 4])
def test_odd_rows_that_are_not_the_ranks_are_not_laid_to_it(rank, tmp_path):
    """GPT-2's vocabulary is odd whatever the rank."""
    GPT2Config(vocab_size=50_257, n_embd=32, n_layer=2, n_head=2, architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path)
    changes = {"precision": "amp-bf16", "target": "h100", "targets": ["qkv"], "batch": 64, "seq": 64}
    asked = point(str(tmp_path), "causal-lm", label="lora", method="lora", settings={"rank": rank}, rank=rank, **changes)
    assert any(one.reached == ODD for one in dryrun.follow(asked, "h100").operations)
    (note,) = [row.note for row in rows.predict(asked)[1] if row.metric == "step_seconds"]
    assert "longest: " in note and "the rank" not in note


@pytest.mark.parametrize(("label", "reason"), [("head", "no adapter"), ("full", "no adapter")])
def test_no_closed_form_says_why(label, reason):
    closed, dry, _ = rows.predict(tiny("roberta-tiny", label))
    assert {row.status for row in closed} == {"unsupported"}
    assert all(row.value is None and reason in row.note for row in closed)
    assert {row.status for row in known(dry)} == {"ok"}


@pytest.mark.parametrize("target", ["cpu", "h100"])
def test_a_step_whose_shapes_depend_on_numbers_is_unsupported_in_words(target, tmp_path):
    """BART classifies by the <eos> tokens that it finds in its input, of which fake tensors cannot say how many there are."""
    settings = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart", "vocab_size": 50, "max_position_embeddings": 16, **settings}))
    _, dry, run = rows.predict(point(str(tmp_path), "sequence-classification", label="full", method="full"), target)
    assert run is None
    assert {row.status for row in dry} == {"unsupported"}
    assert "depends on the numbers of a tensor" in dry[0].note and "<eos>" in dry[0].note and "can be measured" in dry[0].note


def test_a_setting_that_cannot_be_is_unsupported():
    closed, dry, run = rows.predict(tiny("llama-tiny", "head"))
    assert (closed, run) == ([], None)
    assert {row.status for row in dry} == {"unsupported"}


@pytest.mark.parametrize("fault", [RuntimeError("first line\nsecond"), AssertionError(), OSError("disk"), ZeroDivisionError("by zero")])
def test_whatever_fails_is_a_row_with_its_reason(monkeypatch, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr(rows, "dry_run", fail)
    _, dry, _ = rows.predict(tiny("roberta-tiny", "lora"))
    assert {row.status for row in dry} == {"error"}
    assert {row.value for row in dry} == {None}
    assert dry[0].note.startswith(type(fault).__name__)
    assert "\n" not in dry[0].note


def test_an_unsupported_setting_keeps_its_words(monkeypatch):
    def fail(*_):
        raise SettingError("rank: too large")

    monkeypatch.setattr(rows, "dry_run", fail)
    assert rows.predict(tiny("roberta-tiny", "lora"))[1][0].note == "rank: too large"


def test_assumed_slice_ranks_are_said(monkeypatch):
    monkeypatch.setattr(rows.slice_ranks, "known", lambda point: None)
    _, dry, _ = rows.predict(tiny("roberta-tiny", "refta/slices"))
    assert all("assumed" in row.note for row in known(dry))


def test_architectures_that_are_not_data_have_shapes_from_the_model():
    assert closed_form.shapes("vit-tiny", ["query"]) is not None


def test_a_layer_that_runs_several_times_has_no_closed_form(tmp_path):
    """ALBERT's layers are one, called once for each; what accumulates or runs again in backward is not that."""
    sizes = {"hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"model_type": "albert", "architectures": ["AlbertForSequenceClassification"], "vocab_size": 50, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lora = {**METHODS["lora"], "targets": ["query"], "label": "lora"}
    closed, dry, _ = rows.predict(point(str(tmp_path), "sequence-classification", accumulate=2, **lora))
    assert {(row.status, row.value) for row in closed} == {("unsupported", None)}
    assert "query runs 3 times in a forward" in closed[0].note
    assert {row.status for row in known(dry)} == {"ok"}
    closed, _, _ = rows.predict(tiny("roberta-tiny", "lora", checkpointing=True, accumulate=2))
    assert {row.status for row in closed} == {"ok"}


def test_the_time_of_a_gpu_step_and_its_parts_sum():
    _, dry, _ = rows.predict(tiny("roberta-tiny", "lora"), "a100-80")
    found = values(dry)
    assert found["step_seconds"] > 0
    for parts in (("forward", "backward", "optimizer"), ("compute_bound", "bandwidth_bound", "launch_bound")):
        assert found["step_seconds"] == pytest.approx(sum(found[f"{part}_seconds"] for part in parts))
    note = next(row.note for row in dry if row.metric == "step_seconds")
    assert "not calibrated" in note and "longest: " in note


def test_a_cpu_that_was_not_calibrated_has_no_time_and_says_what_to_do():
    (time,) = [row for row in rows.predict(tiny("roberta-tiny", "lora"))[1] if row.metric == "step_seconds"]
    assert (time.status, time.value) == ("unsupported", None) and "calibrate" in time.note


def test_a_step_that_does_not_fit_the_card_is_predicted_to_run_out_of_memory():
    big = tiny("roberta-tiny", "lora", batch=1_000_000)
    found = {row.metric: row for row in rows.predict(big, "t4")[1]}
    assert found["peak_allocated_bytes"].value > 2**34 and found["step_seconds"].status == "oom"
    assert "out of memory predicted" in found["step_seconds"].note
