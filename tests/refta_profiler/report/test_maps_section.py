"""The section of maps: captions, marks and how often the closed form is right."""

from dataclasses import replace

from refta_profiler.report import maps
from refta_profiler.report.material import Material
from refta_profiler.report.parts import Figure
from refta_profiler.results import Row

ENTRY = {
    "model": "vit-large",
    "method": "refta",
    "labels": {"shared": "refta/shared", "reconstruct": "refta/reconstruct"},
    "quantity": "memory_bytes",
    "y": "rank",
    "seq": 197,
    "at": 8,
    "rows": [[4, [[1.0, 64.0, "shared"], [64.0, 1024.0, "reconstruct"]]], [8, [[1.0, 16.0, "shared"], [16.0, 1024.0, "reconstruct"]]]],
}


def row(order, batch, value, **changes):
    base = Row(
        point=f"{order}-{batch}",
        model="vit-large",
        label=f"refta/{order}",
        method="refta",
        order=order,
        rank=8,
        batch=batch,
        seq=197,
        precision="fp32",
        checkpointing=False,
        target="h100",
        source="dryrun",
        metric="peak_allocated_bytes",
        unit="B",
        value=value,
        status="ok",
        note="",
    )
    return replace(base, **changes)


def only_figure(rows):
    section = maps.maps_section(Material(rows, closed_form=[{"map": ENTRY}]))
    assert section is not None
    (figure,) = [block for block in section.blocks if isinstance(block, Figure)]
    return figure


def test_the_caption_says_where_the_order_changes_and_how_often_the_run_agrees():
    rows = [row("shared", 2, 1000), row("reconstruct", 2, 1200), row("shared", 32, 900), row("reconstruct", 32, 1000)]
    caption = only_figure(rows).caption
    assert "At rank 8, least memory: `shared` up to batch 16, then `reconstruct`." in caption
    assert "at 1 of 2 marks" in caption  # at batch 32 the map says reconstruct, the run shared


def test_an_order_within_one_per_cent_of_the_least_is_agreement():
    assert "at 1 of 1 marks" in only_figure([row("shared", 32, 1000), row("reconstruct", 32, 1005)]).caption


def test_a_measured_winner_is_a_filled_mark_and_hides_the_predicted_one():
    rows = [row("shared", 2, 1000), row("reconstruct", 2, 1200)]
    measured = [replace(one, source="measured", target="cpu") for one in rows]
    assert only_figure(rows).panels[0].marks == [(2, 8, "refta/shared", False)]
    assert only_figure([*measured, *rows]).panels[0].marks == [(2, 8, "refta/shared", True)]


def test_a_setting_that_lacks_an_order_or_has_checkpointing_has_no_mark():
    lone = [row("shared", 2, 1000)]
    checkpointed = [replace(row(order, 2, 1000), checkpointing=True) for order in ("shared", "reconstruct")]
    figure = only_figure([*lone, *checkpointed])
    assert figure.panels[0].marks == [] and "marks." not in figure.caption


def test_marks_are_of_one_process_and_one_precision():
    """Ranks and another precision, in which the other order is least, neither win nor fill up what is missing."""
    rows = [row("shared", 2, 1000), row("reconstruct", 2, 1200)]
    ranks = [row(order, 2, value, parallel="ddp:2") for order, value in (("shared", 900), ("reconstruct", 800))]
    half = [row(order, 2, value, precision="bf16") for order, value in (("shared", 500), ("reconstruct", 400))]
    for mixed in ([*rows, *ranks, *half], [*ranks, *rows, *half]):
        assert only_figure(mixed).panels[0].marks == [(2, 8, "refta/shared", False)]
    assert only_figure([rows[0], ranks[1]]).panels[0].marks == []
    assert only_figure(ranks).panels[0].marks == [(2, 8, "refta/reconstruct", False)]


def test_regions_cover_the_rows_without_a_gap():
    found = maps.regions(ENTRY)
    assert [one[4] for one in found] == ["refta/shared", "refta/reconstruct"] * 2
    assert found[0][3] == found[2][2]


def test_a_run_without_maps_has_no_section():
    assert maps.maps_section(Material([])) is None
