"""The tables and figures that papers need beside the verdict's own."""

from dataclasses import replace

import pytest

from refta_profiler import devices
from refta_profiler.report import coverage, fairness, memory, recipe, setup, time, tokens
from refta_profiler.report.accuracy import differences_figure
from refta_profiler.report.cards import cards_section
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Figure, Items, Table
from refta_profiler.results import Row


@pytest.fixture(scope="module")
def material(run):
    return Material.of(run)


def tables(section):
    return [block for block in section.blocks if isinstance(block, Table)]


def as_dicts(table):
    return [dict(zip([column.name for column in table.columns], [cell.text for cell in row], strict=True)) for row in table.rows]


def test_the_recipe_names_every_label_with_its_defaults(material):
    methods, shared = tables(recipe.recipe_section(material))
    rows = {row["label"]: row for row in as_dicts(methods)}
    assert list(rows) == material.labels
    assert rows["lora"]["rank"] == "16" and rows["lora"]["dropout"] == "0.0" and rows["lora"]["trained numbers"] == "1,572,864"
    assert "transform dct" in rows["refta/shared"]["other settings"]
    assert {"what": "adapted layers", "value": "query, value"} in as_dicts(shared)


def test_three_notions_of_fairness_stand_apart(material):
    section = fairness.fairness_section(material)
    rows = as_dicts(tables(section)[0])
    assert {row["equal in"] for row in rows} == {"rank", "parameters", "step cost"}
    rank = next(row for row in rows if row["equal in"] == "rank")
    assert rank["ranks"] == "15 / 16" and rank["parameters"] == "61,470" and rank["outcome"] != "not in this run"
    lacking = next(row for row in rows if row["equal in"] == "parameters")
    assert lacking["outcome"] == "not in this run"
    assert any("parameters" in item for block in section.blocks if isinstance(block, Items) for item in block.items)


def test_every_card_with_known_memory_has_a_column(material):
    found = tables(cards_section(material))
    names = {column.name for table in found for column in table.columns[1:]}
    assert names == {name for name in devices.names() if devices.get(name).kind == "cuda" and devices.get(name).tensor_bytes}
    sizes = [cell.value for row in found[0].rows if row[0].text == "lora" for cell in row[1:]]
    assert sizes == sorted(sizes)


def test_cards_are_not_told_from_the_peaks_of_a_processor(material):
    rows = [replace(row, target="cpu") for row in material.rows]
    assert cards_section(Material(rows, "target: cpu\n")) is None


def test_what_ran_out_of_memory_on_a_small_card_says_nothing_of_a_large_one():
    """Measured on an L4 up to batch 32; the dry run knows 64 too. At batch 64 the L4 has no room, an H200 has."""
    fields = {"target": "l4", "unit": "B"}
    peaks = [
        row("peak_allocated_bytes", batch * 2**29, batch=batch, source=source, **fields)
        for source, batches in (("dryrun", (32, 64)), ("measured", (32,)))
        for batch in batches
    ]
    out = row("peak_allocated_bytes", None, batch=64, status="oom", note="out of memory", **fields)
    found = tables(cards_section(Material([*peaks, out], "target: l4\n")))
    cells = {column.name: cell.text for table in found for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert cells["l4"] == "≥ 32" and cells["h200"].startswith("≈ ")
    assert cells["t4"] == "< 32"
    measured = [one for one in [*peaks, out] if one.source == "measured"]
    found = tables(cards_section(Material(measured, "target: l4\n")))
    cells = {column.name: cell.text for table in found for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert cells["l4"] == cells["h200"] == "≥ 32"
    assert found[0].caption.endswith("On t4 `x` takes < 32 examples, `x` < 32.")


def test_the_peaks_that_fit_are_said_to_be_reserved_where_they_are():
    environment = {"target_device": {"key": "l4", "memory_bytes": 24 * 2**30}}
    fields = {"target": "l4", "unit": "B"}
    peaks = [row("peak_allocated_bytes", 2**30, batch=2, **fields), row("peak_reserved_bytes", 2**31, batch=2, **fields)]
    words = [memory.fits_section(Material(rows, "target: l4\n", environment)).blocks[0].text for rows in (peaks, peaks[:1])]
    assert words[0].startswith("Peaks are bytes that the caching allocator reserves")
    assert words[1].startswith("Peaks are allocated bytes. The allocator reserves more")


def row(metric, value, **fields):
    same = {
        "point": "p",
        "model": "m",
        "label": "x",
        "method": "refta",
        "order": None,
        "rank": 1,
        "batch": 2,
        "seq": 8,
        "precision": "fp32",
    }
    same |= {"checkpointing": False, "target": "cpu", "source": "measured", "unit": "s"}
    return Row(**{**same, **fields}, metric=metric, value=value)


@pytest.mark.parametrize(
    ("setup_seconds", "step_seconds", "expected"),
    [(3.0, 0.09, "200"), (3.0, 0.11, "never"), (3.0, 0.0995, "never"), (0.5, 0.2, "at once")],
)
def test_a_set_up_is_repaid_by_shorter_steps(setup_seconds, step_seconds, expected):
    ours = [row("setup_seconds", setup_seconds), row("step_seconds", step_seconds)]
    theirs = [row(name, value, label="lora", method="lora") for name, value in (("setup_seconds", 1.0), ("step_seconds", 0.1))]
    theirs.append(row("noise_fraction", 0.01, label="lora", method="lora", unit="1"))
    (table,) = tables(setup.setup_section(Material([*ours, *theirs])))
    assert as_dicts(table)[0]["repaid after steps"] == expected


@pytest.mark.parametrize("batches", [(8, 32), (32, 8)])
def test_a_method_that_stops_at_a_smaller_batch_is_held_against_the_reference_there(batches):
    """LoRA ran at both batches, in whatever order the scenario has them."""

    def timed(setup_seconds, step_seconds, **same):
        measured = {"setup_seconds": setup_seconds, "step_seconds": step_seconds}
        return [*(row(name, value, **same) for name, value in measured.items()), row("noise_fraction", 0.01, unit="1", **same)]

    lora = [one for batch in batches for one in timed(1.0, 0.1 * batch, batch=batch, label="lora", method="lora")]
    (table,) = tables(setup.setup_section(Material([*timed(3.0, 0.6, batch=8), *lora])))
    ours, theirs = as_dicts(table)
    assert (ours["batch"], ours["reference"], ours["repaid after steps"]) == ("8", "lora", "10")
    assert theirs["batch"] == "32"


def test_a_set_up_is_not_said_to_be_repaid_by_times_that_are_not_judged():
    def timed(setup_seconds, label):
        same = {"label": label, "method": label}
        alone = replace(row("noise_fraction", 0.0, unit="1", **same), value=None, status="skipped", note="timed in one process")
        return [row("setup_seconds", setup_seconds, **same), row("step_seconds", 0.1, **same), alone]

    for setup_seconds in (0.5, 3.0):  # less than LoRA's, and more
        (table,) = tables(setup.setup_section(Material([*timed(setup_seconds, "refta"), *timed(1.0, "lora")])))
        assert as_dicts(table)[0]["repaid after steps"] == "–"
        assert table.caption.endswith("A dash: a step's time has no noise floor, and is not judged.")


def time_rows(label, *, noise, low=None, high=None, note=""):
    same = {"label": label, "method": "lora"}
    made = [row("step_seconds", 1.0, **same), row("step_seconds_p10", 0.9, **same), row("step_seconds_p90", 1.3, **same)]
    made += [row("step_seconds_low", low, note=note, **same), row("step_seconds_high", high, note=note, **same)] if low else []
    floor = row("noise_fraction", noise or 0.0, unit="1", **same)
    return [*made, floor if noise else replace(floor, value=None, status="skipped", note="timed in one process")]


def drawn(*found):
    """The caption of the measured times' figure, and the ends of its bars."""
    material = Material([one for rows in found for one in rows])
    figure = next(block for block in time.time_blocks(material, "cpu") if isinstance(block, Figure))
    return figure.caption, [ends for panel in figure.panels for ends in panel.intervals]


def test_intervals_are_drawn_that_say_what_they_are_over_and_are_narrow():
    student = {"low": 0.95, "high": 1.05, "note": "Student's t over 5 processes"}
    caption, ends = drawn(time_rows("a", noise=0.02, **student), time_rows("b", noise=0.3, **student))
    assert ends == [(0.95, 1.05)] * 2
    assert "with its 95% interval. " in caption
    assert "two measurements of one method differ by 2% (`a`) to 30% (`b`)" in caption


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"low": 0.95, "high": 1.05}, "with the 10th to 90th percentile of its steps. "),  # as rows from before they said it
        ({}, "with the 10th to 90th percentile of its steps. "),
        (
            {"low": 0.4, "high": 2.5, "note": "Student's t over 2 processes"},
            "(the 95% interval of `a`, over few processes, ends at more than 2 times where it begins, which is too wide to be drawn)",
        ),
    ],
)
def test_percentiles_are_drawn_where_an_interval_is_not_known_or_too_wide(student, words):
    caption, ends = drawn(time_rows("a", noise=0.02, **student), time_rows("b", noise=0.02, low=0.9, high=1.1, note="Student's t"))
    assert ends == [(0.9, 1.3)] * 2
    assert words in caption


def test_times_of_one_process_are_said_not_to_be_judged():
    within = {"low": 0.95, "high": 1.05, "note": "within one process"}
    caption, _ = drawn(time_rows("a", noise=None, **within), time_rows("b", noise=None, **within))
    assert "with its 95% interval within one process. " in caption
    assert caption.endswith("These times have no noise floor (why is under *Points without a number*): no difference of them is judged.")


def test_a_thousand_adapters_take_a_thousand_times_the_bytes(material):
    disk = next(table for table in tables(setup.setup_section(material)) if table.key == "disk")
    lora = next(row for row in disk.rows if row[0].text == "lora")
    assert lora[2].value == 4 * 1_572_864 and lora[3].value == 1000 * lora[2].value


def test_coverage_counts_every_planned_point(material):
    table = tables(coverage.coverage_section(material))[0]
    for line in table.rows:
        total, *counts = [cell.value for cell in line[2:]]
        assert sum(counts) == total == len(material.planned)


def test_what_was_not_counted_is_told():
    rows = [row("step_flops", 1, unit="FLOP", note="median of 3; not counted: workspaces")]
    table = tables(coverage.coverage_section(Material(rows)))[1]
    assert [cell.text for cell in table.rows[0]] == ["workspaces", "1"]


def test_peaks_against_tokens_stand_on_the_head(material):
    peaks, above = [block for block in tokens.tokens_section(material).blocks if isinstance(block, Figure)]
    head = next(series for series in peaks.panels[0].series if series.name == "head")
    shared = next(series for series in peaks.panels[0].series if series.name == "refta/shared")
    lifted = next(series for series in above.panels[0].series if series.name == "refta/shared")
    assert [x for x, _ in head.points][:2] == [197, 394]
    assert lifted.points[0][1] == pytest.approx(1024 * (shared.points[0][1] - head.points[0][1]))
    assert "head" not in {series.name for series in above.panels[0].series}


def test_differences_lie_on_the_line_where_they_are_exact(material):
    (figure,) = differences_figure(material)
    panel = figure.panels[0]
    assert panel.diagonal and panel.series
    assert all(abs(x - y) < 1 for series in panel.series for x, y in series.points)
