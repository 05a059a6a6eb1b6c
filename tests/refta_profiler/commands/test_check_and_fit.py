"""`check` and `fit` on tiny models: what is compared, what is gated, what fits, and messages that list what is possible."""

import json
import re
from itertools import pairwise

import pytest
from model_points import point
from real_steps import ORDERS, tiny

from refta.errors import ReftaError
from refta_profiler.commands import (
    check,
    check_answer,
    check_closed,
    check_runs,
    check_words,
    fit,
    fit_solve,
    largest_rank,
    options,
    peak_lines,
)
from refta_profiler.evidence import PEAKS
from refta_profiler.predict import closed_form, dryrun, rows

MIB = 2**20


@pytest.fixture
def ask(monkeypatch):
    """The points of a question with peaks made up, each larger than the one before: no dry run."""

    def in_processes(jobs):
        for place, job in enumerate(jobs):
            yield job, ([], [rows.row(job[0], "dryrun", "peak_allocated_bytes", 1000 + 100 * place, target=job[1])])

    def asked(**options):
        values = {"model": "vit-large", "batch": 8, "method": "refta", "settings": {}, "against": None, "order": None, "target": "h100"}
        values |= {"seq": None, "targets": ["query", "value"], "precision": "fp32", "checkpointing": False}
        return check_runs.ask(check_runs.Question(**{**values, **options}))

    monkeypatch.setattr(check_runs.run, "in_processes", in_processes)
    return asked


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
        ({"method": "lora", "order": "features"}, "lora has no orders; leave --order out"),
        ({"against": "published"}, "`shared` is the order that is judged"),
        ({"order": "slices", "against": "slices"}, "`slices` is the order that is judged"),
        ({"method": "tucker", "rank": 3}, "did you mean 'ranks'"),
    ],
)
def test_a_question_that_cannot_be_asked(options, words):
    with pytest.raises(ReftaError) as caught:
        check.command(**{"model": "roberta-tiny", "batch": 2, "quick": True, **options})
    assert words in str(caught.value)


def test_equal_parameters_and_step_cost_give_ranks_of_lora():
    question = check_runs.Question("vit-large", 8, "refta", {"rank": 360}, None, None, "h100", None, ["query", "value"], "fp32", False)
    stacks = closed_form.shapes("vit-large", ["query", "value"])
    assert check_runs.reference_ranks(question, ["shared"], stacks) == [360, 15]


def test_ranks_of_lora_are_for_the_layers_that_it_is_put_on():
    """LoRETTA's adapters stand after output and down (43,008·t FLOPs a layer and rank of LoRA), LoRA on query and value (24,576·t)."""
    question = check_runs.Question("vit-large", 8, "loretta_adp", {}, None, None, "h100", None, ["query", "value"], "fp32", False)
    stacks = closed_form.shapes("vit-large", ["output", "down"])
    assert check_runs.reference_ranks(question, ["published"], stacks) == [1, 65]


def test_one_point_without_a_peak_does_not_take_reserved_bytes_from_the_others():
    """GPT-2 has no head of its own to train, so the head alone cannot be dry-run."""
    _, head, _ = rows.predict(tiny("gpt2-tiny", "head"), "h100")
    lora = [rows.row(tiny("gpt2-tiny", "lora"), "dryrun", metric, 1000, target="h100") for metric in PEAKS]
    assert {one.metric for one in head} & set(PEAKS) == {"peak_allocated_bytes"}
    assert check_runs.quantity_of([head, lora]) == "peak_reserved_bytes"
    assert check_runs.quantity_of([head]) == check_runs.quantity_of([lora, lora[1:]]) == check_runs.quantity_of([]) == PEAKS[1]


@pytest.mark.parametrize(
    ("order", "model", "subject", "form"),
    [
        ("published", "vit-large", "refta/shared", "the order asked for"),
        ("auto", "vit-large", "refta/fused", "what `auto` takes here"),
        ("auto_time", "vit-large", "refta/fused_fold", "what `auto_time` takes here"),
        ("features", "distilbert", "refta/shared", "the order asked for"),
        ("auto", "distilbert", "refta/reconstruct_recompute", "what `auto` takes here"),
    ],
)
def test_every_name_of_an_order_is_one_that_is_judged(order, model, subject, form, ask, distilbert):
    runs = ask(order=order, model=distilbert if model == "distilbert" else model)
    found = check_answer.of(runs, with_largest=False)
    assert found.subjects == {subject: form} and check_answer.decisive(found, subject)


def test_check_answers_for_a_device_by_its_own_name(ask):
    runs = ask(target="A100")
    assert {row.target for row in runs.rows} == {runs.question.target} == {"a100-80"}
    assert all(one.memory_difference_fraction is not None for one in check_runs.verdicts_of(runs, "refta/shared", None) if one.against)


def test_what_fits_says_that_a_cuda_context_is_not_counted(ask):
    found = check_answer.of(ask(), with_largest=False)
    assert isinstance(found, check_answer.CheckAnswer)
    assert "Dry runs for h100 (79.1 GiB, a CUDA context not counted since its size there is not known):" in check_words.text(found)


def test_an_automatic_order_that_is_not_one_order_says_what_it_takes(ask):
    with pytest.raises(ReftaError, match="--order auto_time: it takes fused_fold for query, fused for down at 985 tokens"):
        ask(order="auto_time", targets=["query", "down"], batch=5)


def test_an_automatic_order_has_an_answer_in_closed_form(ask, monkeypatch):
    monkeypatch.setattr(check_runs.run, "in_processes", lambda jobs: [(job, ([], [])) for job in jobs])
    found = check_answer.of(ask(order="auto", checkpointing=True), with_largest=False)
    assert isinstance(found, check_closed.ClosedAnswer) and found.subject == "fused"
    assert "`fused` (what `auto` takes here) adds" in check_closed.text(found)
    assert "one block's alive at a time" in check_closed.text(found)


@pytest.mark.parametrize(
    ("method", "against", "subject", "label"),
    [
        ("pissa", "lora", "pissa", "lora"),
        ("lora", "pissa", "lora", "pissa"),
        ("fourierft", "lora", "fourierft", "lora"),
        ("full", "head", "full", "head"),
        ("head", "lora", "head", "lora"),
        ("refta", "lora", "refta/shared", "lora r=8"),
        ("refta", "slices", "refta/shared", "refta/slices"),
        ("refta", "auto", "refta/shared", "refta/fused"),
    ],
)
def test_the_gate_rests_on_what_was_asked_for(method, against, subject, label, ask):
    found = check_answer.of(ask(method=method, against=against), with_largest=False)
    assert next(iter(found.subjects)) == subject and label not in found.subjects
    (verdict,) = check_answer.decisive(found, subject)
    assert verdict.against == label
    assert {one["subject"] for one in check_answer.entries(found) if one["kind"] == "verdict"} <= {*found.subjects, ""}


def test_what_the_whole_model_keeps_is_no_reason_under_checkpointing(ask):
    plain, checkpointed = (check_answer.of(ask(checkpointing=flag), with_largest=False) for flag in (False, True))
    assert all(reason.closed for reason in plain.reasons) and plain.reasons
    assert not any(reason.closed for reason in checkpointed.reasons) and checkpointed.reasons


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


def test_a_number_that_cannot_be_predicted_is_the_limit_of_those_that_can(monkeypatch):
    def fails_beyond_20(point, *_):
        if point.batch > 20:
            raise RuntimeError("no such kernel")
        return dry_runs(point, "cpu")

    dry_runs = dryrun.dry_run
    monkeypatch.setattr(dryrun, "dry_run", fails_beyond_20)
    (one, _) = fit.command("roberta-tiny", "batch", memory="1GiB", target="cpu", methods=["head"], seq=16).data
    assert (one["largest"], one["next_peak_bytes"]) == (20, None)
    assert one["limit"] == "21 cannot be predicted: RuntimeError: no such kernel"


@pytest.fixture
def distilbert(tmp_path):
    """A folder with an architecture whose shapes are not described as data."""
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50, "max_position_embeddings": 48}
    config = {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_an_architecture_that_is_not_data_has_its_ranks_and_positions(distilbert):
    same = {"targets": ["query", "value"]}
    assert largest_rank.of(point(distilbert, method="lora", **same)) == (32, "full rank, 32")
    assert largest_rank.of(point(distilbert, method="refta", order="slices", **same)) == (64, "the largest rank of refta, 64")
    (one, _) = fit.command(distilbert, "seq", memory="8GiB", target="cpu", methods=["head"], batch=2).data
    assert one["largest"] == 48 and "positions" in one["limit"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solve": "x"}, "batch, seq, rank"),
        ({"memory": "1GiB", "settings": ["dropuot=0.1"]}, "--set dropuot: unknown key 'dropuot'; did you mean 'dropout'?"),
        ({"memory": "1GiB", "methods": ["head", "full"], "rank": 4}, "--rank: unknown key 'rank'; head takes no settings"),
        ({}, "give --memory"),
        ({"target": "cpu"}, "memory is not known"),
        ({"memory": "lots"}, "24GiB"),
        ({"memory": "1GiB", "methods": ["lorra"]}, "did you mean 'lora'"),
        ({"memory": "1GiB", "solve": "seq", "model": "vit-tiny"}, "images of 197 tokens"),
        ({"memory": "1GiB", "solve": "seq", "seq": 64}, "--seq 64: seq is what is solved for; leave it out, or give --solve batch or"),
        ({"memory": "1GiB", "solve": "rank", "rank": 4}, "--rank 4: rank is what is solved for"),
        ({"memory": "1GiB", "batch": 4}, "--batch 4: batch is what is solved for; leave it out, or give --solve seq or --solve rank"),
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        (["optimizer=sgd", "accumulate=4"], {"optimizer": "sgd", "accumulate": 4}),
        (["loop.keep_outputs=next", "loop.use_cache=true"], {"loop": {"keep_outputs": "next", "use_cache": True}}),
        (["loop={use_cache: true}", "clip=1.5"], {"loop": {"use_cache": True}, "clip": 1.5}),
    ],
)
def test_a_step_is_given_as_a_scenario_has_it(given, expected):
    assert options.step_settings(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["optimiser=sgd"], "--step optimiser=sgd: 'optimiser' is none of a step's settings; did you mean 'optimizer'? there are task, "),
        (["batch=4"], "'batch' is none of a step's settings; there are task, optimizer"),
        (["optimizer"], "--step optimizer: write KEY=VALUE"),
        (["loop.=1"], "write KEY=VALUE"),
        (["clip=1", "clip.x=2"], "--step clip=… has given all of it already"),
    ],
)
def test_a_step_that_cannot_be_read(given, message):
    with pytest.raises(ReftaError, match=re.escape(message)):
        options.step_settings(given)


def test_check_answers_for_that_step(ask):
    runs = ask(step=options.step_settings(["optimizer=sgd", "accumulate=4", "loop.keep_outputs=true", "task.num_labels=37"]))
    assert {(one.optimizer, one.accumulate, one.loop["keep_outputs"], one.task["num_labels"]) for one in runs.points} == {
        ("sgd", 4, True, 37)
    }
    with pytest.raises(ReftaError, match=r"check: loop\.keep_outputs: unknown value 'nxt'"):
        ask(step={"loop": {"keep_outputs": "nxt"}})


def test_its_heading_says_the_step():
    said = options.step_words({"optimizer": "sgd", "loop": {"use_cache": True, "keep_outputs": "next"}, "clip": 1.5})
    assert said == "optimizer=sgd, loop.use_cache=true, loop.keep_outputs=next, clip=1.5"


def test_fit_answers_for_that_step():
    question = fit_solve.Question("roberta-tiny", "batch", "1GiB", None, ("head",), {}, 16, 32, ["query"], "fp32", {"accumulate": 2})
    assert {one.accumulate for one in fit_solve.points_of(question)} == {2}
