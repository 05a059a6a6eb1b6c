"""What is asked of pretrained weights: energy and quantisation error, against a plain SVD; and how the report words it."""

import pytest
import torch
from torch import nn

from refta.sites import Site, Stack
from refta_profiler.report import residuals as section
from refta_profiler.report.material import Material
from refta_profiler.task import quantisation, residuals


def stack():
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(12, 8) for _ in range(3)]
    for layer in layers:
        layer.weight.data = torch.randn(8, 12, generator=generator)
        layer.bias.data = torch.randn(8, generator=generator)
    return Stack("query", "query", [Site(f"layers.{place}.query", "query", layer, 8, 12, True) for place, layer in enumerate(layers)])


def test_energy_is_that_of_the_largest_singular_values():
    one = stack()
    (found,) = residuals.of_stack(one, [5], ["identity"])
    columns = [torch.cat([site.module.weight, site.module.bias[:, None]], 1).detach().double() for site in one.sites]
    squares = torch.cat([torch.linalg.svdvals(matrix) ** 2 for matrix in columns]).sort(descending=True).values
    assert found["energy"] == pytest.approx(float(squares[:5].sum() / squares.sum()), rel=1e-6)


def test_errors_are_of_weights_and_residual():
    one = stack()
    (found,) = residuals.of_stack(one, [24], ["dct"])
    weight = torch.stack([site.module.weight.detach() for site in one.sites])
    assert found["weights_error"]["nf4"] == pytest.approx(quantisation.squared_error(weight, quantisation.nf4))
    assert found["energy"] == pytest.approx(1.0)
    assert found["residual_error"]["nf4"] == pytest.approx(0.0, abs=1e-9)  # nothing is left


def test_a_rank_beyond_all_components_is_left_out():
    assert [one["rank"] for one in residuals.of_stack(stack(), [5, 25], ["dct"])] == [5]


def entry(transform, rank, energy, residual, role="query"):
    errors = dict.fromkeys(("int8", "int4", "nf4"), 100.0)
    return {"stack": role, "layers": 3, "transform": transform, "rank": rank, "energy": energy, "weights_error": errors} | {
        "residual_error": dict.fromkeys(errors, 100.0 * residual)
    }


def words(*entries):
    found = section.residuals_section(Material([], residuals={"entries": list(entries)}))
    return " ".join(found.blocks[0].items)


def test_the_transform_that_captures_most_throughout_is_the_one_to_choose():
    said = words(entry("dct", 2, 0.1, 0.9), entry("lsm", 2, 0.2, 0.9), entry("dct", 8, 0.3, 0.9), entry("lsm", 8, 0.4, 0.9))
    assert said.startswith("Choose `lsm` by energy: at every rank it captures the most")
    assert "R = 2: `lsm` 20.00% and `dct` 10.00%" in said


def test_no_transform_is_chosen_where_it_depends_on_the_rank():
    said = words(entry("dct", 2, 0.3, 0.9), entry("lsm", 2, 0.2, 0.9), entry("dct", 8, 0.3, 0.9), entry("lsm", 8, 0.4, 0.9))
    assert "depends on the rank: `dct` at R = 2 and `lsm` at R = 8" in said


@pytest.mark.parametrize(
    ("first", "second", "finding"),
    [(0.9, 0.8, "holds throughout for int8"), (0.9, 1.1, "holds in part for int8"), (1.0, 1.1, "does not hold for int8")],
)
def test_the_claim_on_residuals_is_what_the_errors_say(first, second, finding):
    assert f"quantised with less error than the weights {finding}" in words(entry("dct", 2, 0.3, first), entry("dct", 8, 0.3, second))


def test_what_is_left_is_what_the_error_is_held_against():
    """20% taken out and 10% less error: 0.9 / 0.8, 12.5% more of what is left."""
    assert section.relative(entry("dct", 2, 0.2, 0.9), "nf4") == pytest.approx(0.125)
    assert "relative to what is left of the energy, the error changes for int8 by +20% to +20%" in words(entry("dct", 2, 0.25, 0.9))


def test_there_is_no_section_where_nothing_was_looked_at():
    assert section.residuals_section(Material([])) is None
