"""The report as data: what it says, before it is set in type."""

from dataclasses import replace
from typing import Any

import pytest

from refta_profiler import trust as trust_data
from refta_profiler.report import crossovers, record, trust
from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Bars, Panel, Table
from refta_profiler.results import METRICS, Row
from refta_profiler.task.summary import Summary


def section(document, key) -> Any:
    return next(section for section in document.sections if section.key == key)


def table(document, key):
    return next(table for table in document.tables() if table.key == key)


def figure(document, key) -> Any:
    return next(figure for figure in document.figures() if figure.key == key)


def column(table, name):
    index = [column.name for column in table.columns].index(name)
    return [row[index] for row in table.rows]


def test_the_three_verdicts_are_kept_apart(document):
    assert [card.title for card in document.cards] == ["Order", "Method", "Task"]
    order, method, task = document.cards
    assert "against its best other order (rebuilding with recomputation): the same at batch 1 to 128" in order.lines[0][0]
    assert "13% less peak memory than rebuilding the whole stack" in order.lines[0][1]
    assert "(at equal rank and equal step cost)" in method.lines[0][0]
    assert "Accuracy was not measured" in task.lines[0][0]


def test_the_rules_say_what_a_shorter_step_is(document):
    rules = section(document, "rules").blocks[0].items
    assert rules[1].endswith(
        "The same: under 1%, or less than twice the error of predicted differences; a step more than 2% shorter, and by more than its "
        "noise, is then named with it."
    )


def test_what_another_device_measured_stands_apart_with_its_times(document):
    lines = document.cards[0].elsewhere["cpu"]
    assert any("Its step takes" in detail for _, detail in lines)
    assert not any("Its step takes" in detail for _, detail in document.cards[0].lines)


def test_all_that_the_issue_names_is_there(document):
    wanted = {
        "savings",
        "peaks",
        "categories",
        "flops",
        "time",
        "parameters",
        "crossovers",
        "accuracy",
        "failures",
        "environment",
        "reproduce",
    }
    assert wanted <= {section.key for section in document.sections}


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (520 * 2**20, "78.5 GiB that h100 has beside its CUDA context."),
        (None, "79 GiB that h100 has; a CUDA context not counted since its size there is not known."),
    ],
)
def test_what_fits_says_whether_a_cuda_context_is_taken_off(run, context, words):
    made = Material.of(run)
    card = made.environment["target_device"] | {"context_bytes": context}
    assert words in table(document_of(replace(made, environment=made.environment | {"target_device": card})), "fits").caption


@pytest.mark.parametrize(
    ("baseline", "caption", "marked"),
    [
        ("best", "Against its best other order `refta/shared` saves ", "; the best other order stands out."),
        (
            "refta/reconstruct",
            "Against the baseline of the scenario (`refta/reconstruct`) `refta/shared` saves ",
            "; the baseline of the scenario stands out.",
        ),
    ],
)
def test_savings_name_the_order_that_decides(run, baseline, caption, marked):
    made = Material.of(run)
    text = f"{made.scenario_text}\nbaseline: {baseline}\n"
    figure, *tables = section(document_of(replace(made, scenario_text=text)), "savings").blocks
    assert figure.caption.startswith(caption)
    assert "of the peak; against the other orders " in figure.caption
    assert tables and all(table.caption.endswith(marked) for table in tables)


def test_peak_memory_has_a_panel_a_setting_and_device(document):
    panels = figure(document, "peaks").panels
    places = [f"{target}: fp32, {words} checkpointing" for target in ("h100", "cpu") for words in ("without", "with")]
    assert [panel.title for panel in panels] == places
    assert {series.name for series in panels[0].series} == set(document.styles)
    assert all(series.joined for series in panels[0].series)
    assert [series.joined for series in panels[2].series if series.name == "refta/shared"] == [True, False]


def test_the_panels_hold_the_rows(document, run):
    rows = {
        (row.label, row.checkpointing, row.batch): row.value
        for row in run.rows()
        if row.metric == "peak_allocated_bytes" and row.source == "dryrun"
    }
    points = next(series.points for series in figure(document, "peaks").panels[0].series if series.name == "lora")
    assert points[3] == (8, rows["lora", False, 8] / 2**30)


def test_a_device_limit_is_drawn_where_it_is_in_reach(run):
    material = Material.of(run)
    assert not [panel.limits for panel in figure(document_of(material), "peaks").panels if panel.limits]
    small = replace(material, environment={"target_device": {"key": "h100", "memory_bytes": 24 * 2**30, "context_bytes": 2**29}})
    limits = [panel.limits for panel in figure(document_of(small), "peaks").panels]
    assert limits[0] == [(23.5, "memory of h100")]
    assert limits[2] == []


def test_predictions_are_held_against_measurements_of_the_same_device_alone(document):
    pairs = table(document, "pairs")
    assert {cell.text for cell in column(pairs, "device")} == {"cpu"}
    worst = max(abs(cell.value) for cell in column(pairs, "error"))
    assert worst == pytest.approx(0.0009, rel=0.02)
    summary = {row[0].text: row for row in table(document, "accuracy").rows}
    assert summary["peak_allocated_bytes"][4].value == pytest.approx(worst)
    assert summary["peak_allocated_bytes"][5].text.startswith("refta/reconstruct_stack")
    words = section(document, "accuracy").blocks[0].text
    assert "median error" in words and "at worst 0.09%" in words


def test_without_the_prediction_for_the_measured_device_nothing_is_paired(run):
    material = Material.of(run)
    rows = [row for row in material.rows if not (row.source == "dryrun" and row.target == "cpu")]
    accuracy = section(document_of(replace(material, rows=rows)), "accuracy")
    assert not any(isinstance(block, Table) for block in accuracy.blocks)


def test_categories_add_up_to_the_peak(document, run):
    bars = figure(document, "categories").panels[0]
    assert isinstance(bars, Bars)
    totals = dict(zip(bars.names, map(sum, zip(*bars.stacks.values(), strict=True)), strict=True))
    peak = next(row.value for row in run.rows() if (row.label, row.batch, row.metric) == ("refta/shared", 8, "peak_allocated_bytes"))
    assert totals["refta/shared"] * 2**30 == pytest.approx(peak)


def test_failures_are_grouped_by_reason_and_never_hidden(document):
    failures = table(document, "failures")
    assert [row[0].value for row in failures.rows] == ["error", "oom", "skipped", "unsupported"]
    assert [row[-1].value for row in failures.rows] == [1, 2, 2, 16]
    assert "<made up>" in failures.rows[0][1].text
    assert "1 error" in dict(document.facts)["points"]


def test_a_run_that_was_stopped_or_only_measured_says_how_many_points_are_left(run):
    material = replace(Material.of(run), planned=["never-run", *Material.of(run).planned])
    assert "1 of 113 points have no numbers yet: the run was stopped, or" in section(document_of(material), "failures").blocks[0].text


def test_what_the_rules_say_of_reserved_bytes_and_of_accuracy_is_true_of_the_run(run):
    material = Material.of(run)
    rules = " ".join(record.rules_section(material).blocks[0].items)
    assert "neither predicted nor measured" in rules and "which it was not in this run" in rules
    assert "which it was not" not in " ".join(record.rules_section(replace(material, training=Summary([], {}))).blocks[0].items)
    alone = [replace(row, metric="peak_reserved_bytes") for row in material.rows if row.label == "lora"]
    assert "allocated bytes" not in " ".join(record.rules_section(replace(material, rows=alone)).blocks[0].items)  # nothing is compared
    some = " ".join(record.rules_section(replace(material, rows=[*material.rows, *alone])).blocks[0].items)
    assert "is not known of all that are compared" in some


def test_a_caption_names_every_source_of_its_verdicts(run):
    """Batches 1 and 2 are measured on the device that is predicted for, the others are not."""
    rows = [row for row in Material.of(run).rows if row.target == "h100" or row.source == "measured"]
    document = document_of(replace(Material.of(run), rows=[replace(row, target="h100") for row in rows]))
    caption = figure(document, "savings-2").caption
    assert "(measured on h100, allocated bytes; predicted for h100, allocated bytes of a whole training step)" in caption


def test_a_failed_point_is_a_cell_of_the_peak_table(document):
    peaks = table(document, "peaks")
    slices = next(row for row in peaks.rows if row[0].text == "refta/slices" and "without" in row[1].text)
    assert slices[-1].text == "error"


def test_missing_step_time_is_said(document):
    assert "Step time on h100 was not measured" in section(document, "time").blocks[0].text


def test_closed_forms_are_shown_with_their_crossovers(document):
    crossovers = section(document, "crossovers")
    assert "68,016 tokens" in crossovers.blocks[1].items[0]
    kept = figure(document, "kept").panels[0]
    assert isinstance(kept, Panel) and {series.name for series in kept.series} == {"refta/shared", "refta/reconstruct"}
    assert table(document, "closed-form").rows[0][-1].text == "0.00137·t"  # 24 layers × 15 × 4 bytes of 2^20


def test_what_is_kept_at_two_lengths_has_a_panel_each_and_one_row(run):
    """24 layers × 15 × 4 bytes a token and role: at batch 1 of 128 tokens 0.176 MiB of each of two roles, of 256 twice that."""
    entry = next(one for one in Material.of(run).closed_form if one.get("order") == "shared")
    roles = [entry | {"role": role, "seq": seq} for seq in (128, 256) for role in ("query", "value")]
    (kept,), table = crossovers.kept_figure(roles, [], Material([])), crossovers.closed_form_table(roles)
    assert [panel.title.split(", ")[-1] for panel in kept.panels] == ["sequence 128", "sequence 256"]
    each = 2 * 24 * 15 * 4 / 2**20  # of both roles
    assert [panel.series[0].points[0] for panel in kept.panels] == [(1.0, pytest.approx(128 * each)), (1.0, pytest.approx(256 * each))]
    assert [row[1].text for row in table.rows] == ["query", "value"]


def test_one_method_has_one_style_throughout(document):
    assert list(document.styles.values()) == list(range(len(document.styles)))
    for panel in (panel for figure in document.figures() for panel in figure.panels):
        names = panel.names if isinstance(panel, Bars) else [series.name for series in panel.series]
        assert set(names) <= set(document.styles)


def test_every_figure_states_a_finding_and_is_told_to_those_who_do_not_see_it(document):
    for figure in document.figures():
        assert any(sign.isdigit() for sign in figure.caption), figure.key
        assert figure.alternative and figure.panels


def test_how_to_reproduce_names_the_run_and_the_scenario(document, run):
    commands, scenario = section(document, "reproduce").blocks
    assert f"python -m refta_profiler run {run.path}/scenario.yaml" in commands.text
    assert scenario.text == run.scenario_text()


def test_an_empty_run_has_a_report():
    document = document_of(Material([], scenario_text="model: vit-large\n"))
    assert [card.tone for card in document.cards] == ["unknown"] * 3


@pytest.mark.parametrize("status", ["error", "oom", "skipped", "unsupported"])
def test_a_run_where_everything_failed_has_a_report(status):
    row = Row(
        "p", "m", "refta/shared", "refta", "shared", 4, 1, None, "fp32", False, "h100", "dryrun", "peak_allocated_bytes", "B", None, status
    )
    other = replace(row, label="refta/reconstruct", order="reconstruct", point="q")
    document = document_of(Material([row, other]))
    assert table(document, "failures").rows[0][1].text == "no reason was recorded"


def test_a_measured_target_is_judged_by_its_measurements():
    rows = []
    for label, peak, seconds in (("refta/shared", 900, 1.0), ("refta/reconstruct", 1000, 1.0)):
        name = label.split("/")[1]
        for metric, value in (("peak_allocated_bytes", peak), ("step_seconds", seconds)):
            unit = METRICS[metric].unit
            rows.append(Row(name, "m", label, "refta", name, 4, 1, None, "fp32", False, "h100", "measured", metric, unit, value))
    order = document_of(Material(rows)).cards[0]
    assert (order.tone, order.outcome) == ("pays", "pays off")
    assert "Peak memory is measured on h100" in order.lines[-1][0]


def test_predicted_peaks_have_the_worst_error_known_of_their_kind_as_bars(document):
    for panel in figure(document, "peaks").panels:
        for series in panel.series:
            on_gpu = panel.title.startswith("h100")
            assert bool(series.intervals) is (on_gpu and series.joined)  # exact on the CPU in float32; marks are measured
            for (_, size), (low, high) in zip(series.points, series.intervals, strict=False):
                assert low == pytest.approx(size * (1 - 0.0123)) and high == pytest.approx(size * (1 + 0.0123))


def test_how_we_know_says_the_worst_error_of_each_kind_and_what_is_unproved(document):
    rows = {row[0].text: row for row in table(document, "trust").rows if row[1].text == "h100"}
    assert rows["peak_allocated_bytes"][4].text == "1.2%" and rows["peak_allocated_bytes"][5].text == "146"
    unproved = next(one for one in trust_data.entries() if one.error is None)
    assert trust.trust_row(unproved.metric, "h100", "fp32", unproved.ranks, unproved)[4].text == "unproved"
