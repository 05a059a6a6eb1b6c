"""The section on several ranks: not there for one process, and with what each method sends where there are more."""

from dataclasses import replace

import pytest

from refta_profiler.report import accuracy, ranks
from refta_profiler.report.material import Material
from refta_profiler.results import METRICS

SENT = {"lora": 3000, "refta/shared": 1000}


@pytest.fixture(scope="module")
def spread(run):
    """The fixture's run as if each of its steps had been spread over two ranks, with what two of its methods send."""
    first = Material.of(run)
    rows = [replace(row, parallel="ddp:2") for row in first.rows]
    peaks = [row for row in rows if row.metric == "peak_allocated_bytes" and row.source == "dryrun" and row.label in SENT]
    unit = METRICS[ranks.SENT].unit
    sent = [replace(row, metric=ranks.SENT, unit=unit, value=SENT[row.label], status="ok", note="") for row in peaks]
    return replace(first, rows=[*rows, *sent])


def test_there_is_none_for_one_process(run):
    assert ranks.ranks_section(Material.of(run)) is None


def test_it_says_who_sends_least_and_by_how_much(spread):
    section = ranks.ranks_section(spread)
    meaning, words, table = section.blocks
    assert "one rank's" in meaning.text and "2(N−1)/N" in meaning.text
    assert words.text == "DDP over 2 ranks: `refta/shared` sends 1,000 B a step, `lora` 3.00 times as much."
    keys = [column.key for column in table.columns]
    rows = {(row[0].text, row[keys.index("predicted_communicated_bytes")].value) for row in table.rows}
    assert set(SENT.items()) <= rows
    assert all("DDP over 2 ranks" in row[1].text for row in table.rows)


def test_predicted_bytes_are_held_against_those_that_were_sent(spread):
    rows = [row for row in spread.rows if row.metric == ranks.SENT and row.label == "lora"]
    measured = [replace(row, source="measured", value=2500) for row in rows]
    found = accuracy.pairs(replace(spread, rows=[*rows, *measured]))
    assert {(pair.metric, pair.predicted, pair.measured) for pair in found} == {(ranks.SENT, 3000, 2500)}


def test_settings_and_verdicts_name_the_ranks(spread):
    assert all(one.parallel == "ddp:2" for one in spread.verdicts if one.against)
    assert any("DDP over 2 ranks" in one.sentence for one in spread.verdicts)
