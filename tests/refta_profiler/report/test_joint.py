"""One report of several runs."""

from dataclasses import replace

import pytest

from refta_profiler import report
from refta_profiler.errors import ScenarioError
from refta_profiler.report.joint import Named, document, merged, named, rows_of
from refta_profiler.report.material import Material
from refta_profiler.run_folder import RunFolder

GPU = "h100"


@pytest.fixture(scope="module")
def pair(run):
    """The fixture's run, and the same measured on the GPU, with another peak for LoRA's predictions."""
    first = Material.of(run)
    rows = [replace(row, target=GPU) if row.source == "measured" else row for row in first.rows]
    rows = [row for row in rows if not (row.source == "dryrun" and row.target == "cpu")]
    rows = [replace(row, value=2 * row.value) if row.label == "lora" and row.value else row for row in rows]
    environment = first.environment | {"device": "cuda: NVIDIA H100", "torch": "2.13.0+cu130"}
    return [Named("cpu", first), Named("gpu", replace(first, rows=rows, environment=environment))]


@pytest.fixture(scope="module")
def both(pair):
    """The report of the two."""
    return document(pair)


def test_what_two_runs_say_alike_stands_once_and_what_differs_bears_the_run_s_name(pair):
    rows = merged(pair)
    labels = {row.label for row in rows}
    assert {"lora (cpu)", "lora (gpu)", "refta/shared"} <= labels and "lora" not in labels
    shared = [row for row in rows if row.label == "refta/shared" and row.source == "dryrun" and row.target == GPU]
    alone = [row for row in pair[0].material.rows if row.label == "refta/shared" and row.source == "dryrun" and row.target == GPU]
    assert len(shared) == len(alone)


def test_devices_are_shown_side_by_side_and_never_mixed(both):
    titles = [section.title for section in both.sections]
    assert "Peak memory against batch on h100" in titles and "Peak memory against batch on cpu" in titles
    assert [card.title for card in both.cards] == ["Order: cpu, h100", "Method: cpu, h100", "Order: gpu, h100", "Method: gpu, h100"]
    keys = [block.key for block in [*both.tables(), *both.figures()]]
    assert len({card.key for card in both.cards}) == 4
    assert len([table.key for table in both.tables()]) == len({table.key for table in both.tables()}) and keys
    for section in both.sections:
        for figure in (block for block in section.blocks if hasattr(block, "panels") and section.key.startswith("peaks")):
            assert {panel.title.split(":")[0] for panel in figure.panels} == {section.title.split()[-1]}


def test_environments_stand_side_by_side_what_differs_first(both):
    table = next(table for table in both.tables() if table.key == "environments")
    assert [column.name for column in table.columns] == ["what", "cpu", "gpu"]
    assert {row[0].text for row in table.rows[:2]} == {"device", "torch"}


def test_it_is_written_into_its_own_folder(run, tmp_path):
    paths = report.write_joint([run, run], tmp_path / "both", chosen=["html", "csv"])
    text = paths[0].read_text()
    assert paths[0] == tmp_path / "both" / "report.html" and "Environments" in text
    assert len(RunFolder.open(tmp_path / "both").rows()) == len(run.rows())
    assert report.write_joint([run, run], tmp_path / "both", chosen=["json"])
    with pytest.raises(ScenarioError, match="holds a run already"):
        report.write_joint([run, run], run.path)


def test_runs_of_one_name_are_told_apart(run):
    assert [one.name for one in named([run])] == ["vit_l"]
    assert len({one.name for one in named([run, run])}) == 2


def test_a_device_that_was_measured_on_has_the_closed_form_of_what_ran_there(pair, both):
    """Without it, whole steps that differ by 2% would count as equal in cost, whatever the adapters' own do."""
    rows = rows_of(merged(pair), "cpu")
    closed = {(row.label, row.batch) for row in rows if row.source == "contraction" and row.metric == "step_flops"}
    assert ("refta/shared", 1) in closed and ("refta/shared", 64) not in closed  # the CPU measured batches 1 and 2
    tables = {table.key: table for table in both.tables()}
    costs = {row[7].text for row in tables["fairness-d2"].rows if row[0].text == "step cost"}
    assert costs and "–" not in costs


def test_cards_fairness_and_recipes_stand_apart_too(both):
    titles = [section.title for section in both.sections]
    assert "The largest batch by card on h100" in titles
    assert "Three kinds of a fair comparison on h100" in titles
    assert titles.count("Recipe of cpu") == titles.count("Recipe of gpu") == 1
