"""`check` and `fit` on tiny models: what is compared, what is gated, what fits, and messages that list what is possible."""

import json
from itertools import pairwise

import pytest
from real_steps import ORDERS

from refta.errors import ReftaError
from refta_profiler.commands import check, check_answer, check_runs, fit, peak_lines
from refta_profiler.predict import dryrun

MIB = 2**20


@pytest.fixture(scope="module")
def found():
    """A check on the CPU, where the allocator rounds nothing, so that tiny differences are seen."""
    return check.command("roberta-tiny", 4, rank=4, seq=32, target="cpu", quick=True)


def entries(found, kind):
    return [one for one in found.data if one["kind"] == kind]


def test_every_order_is_there_and_the_winner_has_the_least_peak(found):
    peaks = {one["label"]: one["peak_allocated_bytes"] for one in entries(found, "peak") if one["method"] == "refta"}
    assert set(peaks) == {f"refta/{order}" for order in ORDERS}
    (winner,) = entries(found, "winner")
    assert peaks[winner["label"]] == min(peaks.values())
    assert winner["margin_bytes"] == sorted(peaks.values())[1] - min(peaks.values())
    assert winner["margin_fraction_of_peak"] == pytest.approx(winner["margin_bytes"] / sorted(peaks.values())[1])


def test_the_best_other_order_and_the_references_are_in_the_answer(found):
    verdicts = [one for one in entries(found, "verdict") if one["subject"] == "refta/shared"]
    (best,) = [one for one in verdicts if one["comparison"] == "best other order"]
    assert best["decisive"] and best["against"].startswith("refta/")
    assert {"lora r=4", "pissa r=4"} <= {one["against"] for one in verdicts if "equal rank" in one["comparison"]}
    forms = {one["form"] for one in entries(found, "verdict")}
    assert forms == {"as the public code runs it", "as the paper writes it"}


def test_the_reason_has_both_numbers(found):
    reason = next(one for one in entries(found, "reason") if (one["subject"], one["against"]) == ("refta/shared", "refta/reconstruct"))
    assert reason["closed"]["refta/shared"]["kept_line"] == [0, 2 * 3 * 4 * 4]
    assert reason["closed"]["refta/reconstruct"]["rebuilds"]
    peaks = {one["label"]: one["peak_allocated_bytes"] for one in entries(found, "peak")}
    assert sum(part["difference"] for part in reason["causes"]) == peaks["refta/shared"] - peaks["refta/reconstruct"]


def test_the_gate_fails_with_the_sentence_and_only_where_it_is_asked_for(found):
    assert not found.failed
    gated = check.command("roberta-tiny", 4, rank=4, seq=32, target="cpu", order="shared", against="lora", quick=True, exit_code=True)
    assert "lora" in gated.failed and "no difference that counts" in gated.failed and "scenario" not in gated.failed
    assert {one["form"] for one in entries(gated, "verdict")} == {"the order asked for"}


@pytest.mark.slow
def test_the_largest_batch_is_dry_run_at_its_edge(monkeypatch):
    monkeypatch.setattr(peak_lines, "LAST", 48)
    for module in (check_runs, check_answer):
        monkeypatch.setattr(module, "LAST", 48)
    monkeypatch.setattr(peak_lines, "FIRST_TRIED", (1, 8, 48))
    found = check.command("roberta-tiny", 1, rank=2, seq=16, target="cpu", order="shared", against="reconstruct")
    (largest,) = [one for one in entries(found, "largest_batch") if one["against"] == "refta/reconstruct"]
    stretches = largest["outcomes_by_batch"]
    assert stretches[0]["first"] == 1 and stretches[-1]["last"] is None
    assert all(one["last"] + 1 == other["first"] for one, other in pairwise(stretches))
    assert largest["from_dry_runs_at_both_edges"] == (stretches[0]["last"] is not None)
    assert largest["step_flops_known"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"against": "nope"}, "neither an order of refta (shared"),
        ({"against": "refta"}, "the method itself"),
        ({"order": "nope"}, "refta has shared"),
        ({"method": "lorra"}, "did you mean 'lora'"),
        ({"rank": 0}, "at least 1"),
        ({"batch": 0}, "the least is 1"),
        ({"target": "h1"}, "did you mean 'h100'"),
        ({"method": "tucker", "rank": 3}, "did you mean 'ranks'"),
    ],
)
def test_a_question_that_cannot_be_asked(options, words):
    with pytest.raises(ReftaError) as caught:
        check.command(**{"model": "roberta-tiny", "batch": 2, "quick": True, **options})
    assert words in str(caught.value)


def test_equal_parameters_and_step_cost_give_ranks_of_lora():
    question = check_runs.Question("vit-large", 8, "refta", {"rank": 360}, None, None, "h100", None, ["query", "value"], "fp32", False)
    from refta_profiler.predict import closed_form

    stacks = closed_form.shapes("vit-large", ["query", "value"])
    assert check_runs.reference_ranks(question, ["shared"], stacks) == [360, 15]


def test_fit_finds_the_largest_batch_and_what_limits_it():
    found = fit.command("roberta-tiny", "batch", memory="4MiB", target="cpu", methods=["head", "lora"], rank=2, seq=16)
    assert [(one["label"], one["checkpointing"]) for one in found.data] == [
        ("head", False),
        ("lora", False),
        ("head", True),
        ("lora", True),
    ]
    for one in found.data:
        assert one["peak_bytes"] <= 4 * MIB < one["next_peak_bytes"]
        assert one["limit"].startswith("memory: ")
    assert found.data[0]["largest"] > found.data[1]["largest"]


def test_fit_stops_at_a_models_positions_and_at_a_methods_largest_rank():
    found = fit.command("roberta-tiny", "seq", memory="8GiB", target="cpu", methods=["head"], batch=2)
    assert found.data[0]["largest"] == 64 and "positions" in found.data[0]["limit"]
    found = fit.command("roberta-tiny", "rank", memory="8GiB", target="cpu", methods=["head", "lora"], batch=2, seq=16)
    by_label = {one["label"]: one for one in found.data if not one["checkpointing"]}
    assert by_label["head"]["largest"] is None and "no rank" in by_label["head"]["limit"]
    assert by_label["lora"]["largest"] == 32


def test_what_does_not_fit_at_all_is_said():
    (one, _) = fit.command("roberta-tiny", "batch", memory="1KiB", target="cpu", methods=["head"], seq=16).data
    assert one["largest"] == 0 and "not even 1 fits" in one["limit"]


def test_a_method_that_breaks_is_a_row_with_its_reason(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(dryrun, "dry_run", broken)
    (one, _) = fit.command("roberta-tiny", "batch", memory="1GiB", target="cpu", methods=["head"], seq=16).data
    assert one["largest"] is None and "no such kernel" in one["limit"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solve": "x"}, "batch, seq, rank"),
        ({}, "give --memory"),
        ({"target": "cpu"}, "memory is not known"),
        ({"memory": "lots"}, "24GiB"),
        ({"memory": "1GiB", "methods": ["lorra"]}, "did you mean 'lora'"),
        ({"memory": "1GiB", "solve": "seq", "model": "vit-tiny"}, "images of 197 tokens"),
    ],
)
def test_a_fit_that_cannot_be_asked(options, words):
    with pytest.raises(ReftaError) as caught:
        fit.command(**{"model": "roberta-tiny", **options})
    assert words in str(caught.value)


@pytest.fixture
def undrivable(tmp_path):
    """A folder whose shapes can be read and whose model cannot be built."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "hidden_act": "nosuch"}
    config = {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        **sizes,
        "image_size": 32,
        "patch_size": 8,
        "num_channels": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_where_no_step_can_be_dry_run_the_closed_form_answers_and_says_so(undrivable):
    found = check.command(undrivable, 4, rank=2, exit_code=True)
    assert "From the closed form" in found.text and "nosuch" in found.text and "nosuch" in found.failed
    added = {one["order"]: one for one in entries(found, "closed_form")}
    assert added["shared"]["kept_bytes"] == 2 * 3 * 2 * 4 * (4 * 17)  # two roles, three layers, t·R numbers of four bytes
    assert added["reconstruct_recompute"]["kept_bytes"] == 0
    (winner,) = entries(found, "winner")
    assert winner["order"] == min(added, key=lambda order: added[order]["memory_bytes"])
    assert winner["source"] == "contraction" and winner["margin_fraction_of_peak"] is None and "dry run" in winner["note"]
    crossed = {(one["quantity"], one["lower"], one["higher"]): one["tokens"] for one in entries(found, "crossover")}
    assert crossed["kept_bytes", "shared", "reconstruct"] == int((64 * 64 * 2 + 64 * 2 * 3) / (2 * 3))  # nd(K − 1) + nRK = tRK


def test_a_method_with_neither_a_dry_run_nor_a_closed_form_is_a_message(undrivable):
    with pytest.raises(ReftaError, match="neither a dry run nor a closed form"):
        check.command(undrivable, 4, method="full")
