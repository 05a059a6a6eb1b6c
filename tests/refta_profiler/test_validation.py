"""Errors of predictions, worked by hand, and published measurements predicted again."""

from dataclasses import replace
from pathlib import Path

import pytest

from refta_profiler import own_code, plan, scenario, validation
from refta_profiler.errors import ScenarioError
from refta_profiler.predict import rows
from refta_profiler.results import Row
from refta_profiler.validation import GIB, Pair, Validation

PUBLISHED = "tests/data/published/"
MIB = 1 << 20


def row(label: str, source: str, value: float, *, metric: str = "peak_allocated_bytes", target: str = "cpu") -> Row:
    sizes = {"rank": 4, "batch": 1, "seq": 8, "precision": "fp32", "checkpointing": False}
    return Row(
        point=label,
        model="m",
        label=label,
        method="refta",
        order=None,
        target=target,
        source=source,
        metric=metric,
        unit="B",
        value=value,
        **sizes,
    )


def test_errors_by_hand():
    found = Validation("peak_allocated_bytes", (Pair("a", 98, 100), Pair("b", 202, 200), Pair("c", 50, 50)))
    assert found.worst == pytest.approx(0.02)
    assert found.median == pytest.approx(0.01)
    assert found.percentile_95 == pytest.approx(0.02)
    assert found.spread == pytest.approx(0.03)
    assert found.worst_difference == 4
    assert found.winners() == (3, 3)


def test_a_wrong_winner_is_counted():
    assert Validation("x", (Pair("a", 10, 20), Pair("b", 11, 19))).winners() == (0, 1)


def test_rows_are_paired_by_point_device_and_metric():
    given = [row("a", "dryrun", 90), row("a", "dryrun", 70, target="h100"), row("a", "measured", 100), row("b", "measured", 5)]
    (found,) = validation.from_rows(given)
    assert found.pairs == (Pair("a, batch 1", 90, 100),)


def test_published_peaks_are_matched_by_label(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("form,cores,peak_gib\ncontraction,2,2.0\n")
    found = validation.from_published([row("contraction 2", "dryrun", 2 * GIB - 588 * MIB)], file, less=588 * MIB)
    assert found.worst == 0
    with pytest.raises(ScenarioError, match=r"p\.csv: line 2: the scenario has no point labelled 'contraction 2'"):
        validation.from_published([row("contraction 3", "dryrun", 1)], file)
    failed = replace(row("contraction 2", "dryrun", 1), value=None, status="error", note="no such layer")
    with pytest.raises(ScenarioError, match=r"line 2: the scenario's 'contraction 2' has no predicted peak: no such layer"):
        validation.from_published([failed], file)


@pytest.mark.parametrize("text", ["", "form,cores\na,1\n"])
def test_a_file_of_another_form_is_named(tmp_path, text):
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(ScenarioError, match="no rows with the columns cores, form, peak_gib"):
        validation.from_published([], file)


def published(folder: Path, name: str, csv: str, labels: set[str] | None, less: int) -> Validation:
    """The published rows of some labels (all where None) against their prediction."""
    loaded = scenario.load(f"scenarios/published/{name}.yaml", code=own_code.permission(allowed=True))
    points = [point for point in plan.points(loaded) if labels is None or point.label in labels]
    found = [one for point in points for one in rows.predict(point)[1]]
    there = {one.label for one in found}
    lines = Path(PUBLISHED + csv).read_text().splitlines()
    part = folder / "part.csv"
    part.write_text("\n".join([lines[0], *(line for line in lines[1:] if " ".join(line.split(",")[:2]) in there)]))
    return validation.from_published(found, part, less=less)


def test_two_published_gpt2_peaks_of_each_form_are_predicted(tmp_path):
    labels = {"contraction 2", "contraction 5", "reconstruction 2", "reconstruction 5"}
    found = published(tmp_path, "gpt2_ptb", "ttlora_gpt2_ptb.csv", labels, 588 * MIB)
    assert len(found.pairs) == 4
    assert found.worst <= 0.005
    assert found.worst_difference <= 5 * MIB
    assert found.winners()[0] == found.winners()[1]


AS_RUN = {"contraction 2", "contraction 5", "reconstruction 2", "reconstruction 16"}


def test_four_published_gpt2_peaks_are_predicted_as_they_were_run_with_nothing_taken_off(tmp_path):
    found = published(tmp_path, "gpt2_ptb_as_run", "ttlora_gpt2_ptb.csv", AS_RUN, 0)
    assert len(found.pairs) == 4
    assert found.worst <= 0.0001
    assert found.worst_difference <= 5 * MIB
    assert found.winners()[0] == found.winners()[1]


@pytest.mark.slow
def test_all_published_gpt2_peaks_are_predicted_as_they_were_run(tmp_path):
    found = published(tmp_path, "gpt2_ptb_as_run", "ttlora_gpt2_ptb.csv", None, 0)
    assert len(found.pairs) == 36
    assert found.worst <= 0.0001
    assert found.worst_difference <= 5 * MIB
    assert by_core_count(found) == 18


def test_two_published_roberta_peaks_of_each_form_are_predicted(tmp_path):
    labels = {"contraction 2", "contraction 4", "reconstruction 2", "reconstruction 4"}
    found = published(tmp_path, "roberta_mrpc", "ttlora_roberta_mrpc.csv", labels, 0)
    assert len(found.pairs) == 4
    assert found.worst <= 0.04


@pytest.mark.slow
def test_all_published_gpt2_peaks_are_predicted(tmp_path):
    found = published(tmp_path, "gpt2_ptb", "ttlora_gpt2_ptb.csv", None, 588 * MIB)
    assert len(found.pairs) == 36
    assert found.worst <= 0.005
    assert by_core_count(found) == 18


@pytest.mark.slow
def test_all_published_roberta_peaks_are_predicted(tmp_path):
    found = published(tmp_path, "roberta_mrpc", "ttlora_roberta_mrpc.csv", None, 0)
    assert len(found.pairs) == 34
    assert found.worst <= 0.04
    assert found.spread <= 0.03
    assert by_core_count(found) == 17


def by_core_count(found: Validation) -> int:
    """At how many core counts the prediction names the form that needs less memory."""
    pairs = {pair.name: pair for pair in found.pairs}
    right = 0
    for name, one in pairs.items():
        form, cores = name.split()
        other = pairs.get(f"reconstruction {cores}")
        if form == "contraction" and other is not None:
            right += (one.predicted < other.predicted) == (one.measured < other.measured)
    return right
