"""`orders`: what refta.md states of ReFTA on ViT-Large, the words, no torch, and messages that list what is possible."""

import subprocess
import sys

import pytest

from refta.cost import Line
from refta.errors import ReftaError
from refta_profiler.commands import order_table, orders


def answer(method="refta", model="vit-large", **options):
    return orders.command(method, model, **options)


def crossover(found, quantity, scope, *pair):
    """The one crossover of a pair."""
    return next(
        one
        for one in found.data
        if (one["kind"], one.get("quantity"), one.get("scope")) == ("crossover", quantity, scope)
        and {one["lower"], one["higher"]} == set(pair)
    )


def test_kept_bytes_of_features_and_of_rebuilding_cross_where_the_description_says():
    found = answer(rank=15)
    layer = crossover(found, "kept_bytes", "layer", "shared", "reconstruct")
    model = crossover(found, "kept_bytes", "model", "shared", "reconstruct")
    assert layer["exact_tokens"] == "1063936/15"  # nd/R + n
    assert (layer["lower"], layer["tokens"], layer["batch"], layer["seq"]) == ("shared", 70929, 360, 197)
    assert (model["lower"], model["tokens"], model["batch"]) == ("shared", 68016, 345)


@pytest.mark.parametrize(("rank", "tokens"), [(15, None), (360, 973)])
def test_training_flops_cross_for_large_ranks_alone(rank, tokens):
    assert crossover(answer(rank=rank), "step_flops", "layer", "shared", "reconstruct")["tokens"] == tokens


@pytest.mark.parametrize("rank", [4, 15, 360])
def test_forward_flops_cross_at_512_tokens_for_every_rank(rank):
    assert crossover(answer(rank=rank), "forward_flops", "layer", "shared", "reconstruct")["exact_tokens"] == "512"


def test_the_words_say_it():
    text = answer(rank=15).text
    assert "per layer `shared` keeps less than `reconstruct` up to 70,929 tokens (batch 360 of 197), over the model up to 68,016" in text
    assert "`reconstruct_recompute` keeps nothing at any batch and costs 2Rnd (31,457,280) more FLOPs a layer" in text
    assert "`fused` keeps nothing at any batch and costs 30,720·t more FLOPs a layer than `shared`" in text  # 2tdR
    assert "per layer `shared` needs fewer training FLOPs than `fused_fold` up to 1,024 tokens (batch 5 of 197)" in text
    assert "as autograd derives them" in text


def test_a_text_model_counts_batches_of_its_sequence():
    found = answer(model="roberta-large", rank=5, seq=100)
    assert crossover(found, "kept_bytes", "layer", "shared", "reconstruct")["batch"] == (1024 * 1024 // 5 + 1024) // 100


def test_a_text_that_is_not_said_is_no_longer_than_the_positions():
    assert crossover(answer(model="roberta-tiny", rank=4), "kept_bytes", "layer", "shared", "reconstruct")["seq"] == 64
    assert crossover(answer(model="roberta-base", rank=4), "kept_bytes", "layer", "shared", "reconstruct")["seq"] == 128


def test_single_layers_each_keep_their_x_and_the_first_alone_needs_no_gradient():
    """The folded weight of layer 23 is kept for the gradient of its x: 4·n·d bytes. Every layer of a size stands there once."""
    found = answer(rank=15, targets="layers.23.attention.q_proj,layers.22.attention.q_proj")
    costs = {(one["scope"], one["order"]): one for one in found.data if one["kind"] == "cost"}
    assert costs["model", "reconstruct"]["kept_bytes"][0] == 4 * 1024 * 1024 + 2 * 4 * 1024 * 15
    assert "8,192·t bytes over the model" in found.text
    assert found.text.count("One layer (query)") == 1 and found.text.count("One stack (query)") == 2


def test_bytes_of_a_number_are_those_of_the_precision():
    """Under autocast features are kept in bfloat16; a backward written by hand computes without it."""
    from refta_profiler.predict import closed_form

    stacks = closed_form.shapes("vit-large", ["query", "value"])
    whole, half = (
        order_table.of("refta", {"rank": 15}, stacks, seq=197, model="vit-large", precision=precision).scope("model")[0].costs
        for precision in ("fp32", "amp-bf16")
    )
    assert (whole["shared"].kept_bytes, half["shared"].kept_bytes) == (Line(0, 2880), Line(0, 1440))
    assert whole["reconstruct"].temporary_bytes(1576) == 2 * half["reconstruct"].temporary_bytes(1576)
    assert whole["fused"].temporaries == half["fused"].temporaries


def test_settings_can_be_given():
    found = answer("tt_lora", "roberta-base", rank=5, settings=["input_factors=[16, 8, 6]", "output_factors=[16, 8, 6]"])
    assert {one["order"] for one in found.data if one["kind"] == "cost"} == {
        "published",
        "features",
        "reconstruct",
        "reconstruct_recompute",
    }


@pytest.mark.parametrize("method", order_table.with_networks())
def test_every_method_with_a_network_has_a_table(method):
    found = answer(method, "vit-tiny")
    scopes = {one["scope"] for one in found.data if one["kind"] == "cost"}
    assert scopes == {"layer", "stack", "model"}
    assert found.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "rfta"}, "did you mean 'refta'"),
        ({"method": "head"}, "those that do: "),
        ({"rank": 0}, "at least 1"),
        ({"rank": 40_000}, "at most 24576 components"),
        ({"model": "vit-larg"}, "did you mean 'vit-large'"),
        ({"targets": "querry"}, "did you mean 'query'"),
        ({"seq": 12}, "leave --seq out"),
        ({"model": "roberta-tiny", "seq": 65}, "more than the 64 positions of roberta-tiny"),
        ({"settings": ["rank"]}, "KEY=VALUE"),
        ({"settings": ["rnk=3"]}, "did you mean 'rank'"),
        ({"method": "tt_lora", "settings": ["input_factors=[3, 4]"]}, "1024"),
    ],
)
def test_what_cannot_be_says_what_can(options, words):
    with pytest.raises(ReftaError, match=r"(?s).*") as caught:
        answer(**options)
    assert words in str(caught.value)
    assert getattr(caught.value, "exit_code", 2) == 2


def test_no_torch_is_imported():
    code = "import sys; from refta_profiler import cli; from refta_profiler.commands import orders; "
    code += "orders.command('refta', 'vit-large', rank=15); orders.command('tt_lora', 'gpt2'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_regimes_of_lines_and_of_their_largest():
    found = order_table.regimes({"flat": [Line(10, 0)], "steep": [Line(0, 2)], "same": [Line(0, 2)]})
    assert [(one.orders, one.first, one.last) for one in found] == [(("steep", "same"), 1, 5), (("flat",), 6, None)]
    found = order_table.regimes({"flat": [Line(10, 0), Line(0, 1)], "steep": [Line(0, 2)]})
    assert [(one.orders, one.first) for one in found] == [(("steep",), 1), (("flat",), 6)]
    assert order_table.largest_lines([Line(8, 0), Line(0, 3), Line(1, 2)]) == [Line(8, 0), Line(0, 3)]


def test_the_layers_of_a_stack_add_up_to_the_model():
    stacks = [one for one in answer(rank=15).data if one["kind"] == "cost" and one["order"] == "shared"]
    by_scope = {one["scope"]: one for one in stacks}
    assert by_scope["model"]["forward_flops"] == [0, 48 * 2 * 15 * 2048]
    assert by_scope["layer"]["kept_bytes"] == [0, 60]
    assert by_scope["model"]["kept_bytes"] == [0, 48 * 60]
