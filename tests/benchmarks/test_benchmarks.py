"""The comparison on tiny models: what is measured agrees with the closed form and the dry run, and the claims are judged."""

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import cells, contenders, floors, tables
from refta.cost import stack_cost
from refta.shapes import StackShape
from refta_profiler.predict import closed_form, dryrun

SEQ, BATCH = 16, 2


@pytest.fixture(scope="module")
def measured() -> dict[str, cells.Measured]:
    """Every contender on a tiny RoBERTa, three interleaved steps."""
    torch.set_num_threads(1)
    made = contenders.contenders("roberta-tiny", seq=SEQ, device=torch.device("cpu"), only=lambda label: True)
    found = cells.measure([contenders.with_batch(one, BATCH) for one in made], steps=3, budget_seconds=0)
    return cells.by_label(found)


@pytest.mark.slow
def test_every_contender_is_there_and_ran_the_same_rounds(measured):
    labels = {*contenders.points("roberta-tiny", BATCH, seq=SEQ, target="cpu"), contenders.NAIVE, contenders.FLOOR}
    assert set(measured) == labels
    assert {len(one.samples) for one in measured.values()} == {3}


@pytest.mark.slow
def test_peaks_are_those_of_a_process_of_their_own(measured):
    """Sharing the frozen weights and the process changes no peak: it is the dry run's, to the byte."""
    points = contenders.points("roberta-tiny", BATCH, seq=SEQ, target="cpu")
    for label in ("head", "lora r=16", "refta/shared", "refta/reconstruct", "refta/fused", "refta/fused_fold"):
        assert measured[label].peak_bytes == dryrun.dry_run(points[label], "cpu").peak_allocated_bytes, label


@pytest.mark.slow
def test_kept_bytes_and_flops_are_the_closed_forms(measured):
    shapes = closed_form.shapes("roberta-tiny", ["query", "value"])
    assert shapes is not None
    for order in ("shared", "slices", "reconstruct", "fused", "fused_fold"):
        costs = closed_form.stack_costs("refta", {"rank": contenders.RANK}, order, shapes)
        assert costs is not None
        found = measured[f"refta/{order}"]
        assert found.kept_bytes == sum(one.cost.kept_bytes.at(BATCH * SEQ) for one in costs), order
        if order != "slices":  # its FLOPs depend on the slice ranks
            own = found.flops - measured["floor"].flops
            assert own == sum(one.cost.step_flops.at(BATCH * SEQ) for one in costs), order


@pytest.mark.slow
def test_the_naive_rebuild_costs_what_autograd_makes_of_it(measured):
    naive, rebuilt = measured["naive"], measured["refta/reconstruct"]
    assert (naive.flops, naive.kept_bytes, naive.trained) == (rebuilt.flops, rebuilt.kept_bytes, rebuilt.trained)


@pytest.mark.slow
def test_the_floor_keeps_x_and_no_adapter(measured):
    floor = measured["floor"]
    assert floor.kept_bytes == 0
    assert floor.kept_inputs == measured["refta/fused"].kept_inputs > 0
    assert floor.trained == measured["head"].trained
    assert floor.peak_bytes < measured["refta/fused"].peak_bytes


def test_naive_and_orders_compute_one_function():
    made = contenders.contenders("roberta-tiny", seq=SEQ, device=torch.device("cpu"), only=lambda label: label in ("naive", "refta/fused"))
    outputs = []
    for one in made:
        one.prepare()
        one.work.model.eval()
        outputs.append(one.work.model(**contenders.with_batch(one, BATCH).work.batch).logits.detach())
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5


def test_the_least_flops_by_hand():
    """n = 5, d = 7, R = 3: features three products with A and three with B, 6·(15 + 21)·t; folded 210, then ∂L/∂W 70t and 420."""
    shape = StackShape("query", "query", 1, 5, 7)
    assert floors.layer_flops(shape, 3, 2) == 6 * (15 + 21) * 2
    assert floors.layer_flops(shape, 3, 2, x_needs_gradient=False) == 6 * (15 + 14) * 2
    assert floors.layer_flops(shape, 3, 100) == 210 + 70 * 100 + 420


@pytest.mark.parametrize("rank", [1, 15, 360])
@pytest.mark.parametrize("tokens", [1, 197, 1024, 100_000])
def test_no_order_needs_fewer_than_the_least(rank, tokens):
    from refta import registry

    shape = StackShape("query", "query", 24, 1024, 1024, inputs_without_gradient=1)
    network = registry.method("refta").network(registry.settings("refta", {"rank": rank}), shape)
    least = floors.model_flops([shape], rank, tokens)
    for order in network.orders:
        assert stack_cost(network, order, 24, inputs_without_gradient=1).step_flops.at(tokens) >= least, order


def result(label: str, peak: int, kept: int, samples: list[float]) -> cells.Measured:
    return cells.Measured(label, peak, kept, 0, 0, 1, None, samples)


def test_ratios_are_taken_within_a_round():
    """A machine that becomes three times slower in the second half changes no ratio."""
    one, two = result("a", 0, 0, [1.0, 1.0, 3.0]), result("b", 0, 0, [2.0, 2.0, 6.0])
    assert one.ratio(two) == 0.5


@pytest.mark.parametrize(
    ("fused", "holds"),
    [
        (result("refta/fused", 90, 0, [1.0] * 15), [True, True, True, None]),
        (result("refta/fused", 110, 4, [1.1] * 15), [False, False, False, None]),
        (result("refta/fused", 90, 0, [1.1] * 3), [True, True, None, None]),
    ],
)
def test_claims_are_judged_by_what_was_measured(fused, holds):
    others = [result("lora r=8", 100, 8, fused.samples), result("lora r=16", 120, 8, [1.0] * len(fused.samples))]
    cell = tables.Cell("roberta-base", 8, 1024, [fused, *others], 1, {})
    assert [one.holds for one in tables.claims([cell])] == holds


@pytest.mark.slow
def test_a_cell_beyond_the_budget_is_dry_run_and_the_table_says_so():
    found = list(
        command.run(["roberta-tiny"], [1, 4096], steps=3, budget_seconds=0.5, device=torch.device("cpu"), only=["head", "lora r=8"])
    )
    assert [bool(one.measured) for one in found] == [True, False]
    assert set(found[1].predicted) == {"head", "lora r=8"}
    assert "by dry run" in tables.cell_table(found[1])
    assert "3 interleaved steps" in tables.cell_table(found[0])


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--models", "vit-bse"], "there are vit-tiny"), (["--only", "fused"], "the contenders are head, lora r=16")]
)
def test_usage_errors_say_what_there_is(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
