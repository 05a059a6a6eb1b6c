"""What the page computes from: packed steps, thresholds and words; and the table for readers without a script."""

import base64
import json
import zlib
from dataclasses import replace

import pytest

from refta_profiler.report import control
from refta_profiler.report.document import document_of
from refta_profiler.report.material import Material
from refta_profiler.report.writers.html import embedded, render

STEP = {"sizes": [[512, 100]], "initial": [0], "events": [0, -1], "products": [0, 0], "step_flops": [0, 7], "operations": []}
ENTRY = {
    **{"model": "vit-large", "label": "refta/shared", "method": "refta", "settings": {}, "order": "shared", "rank": 15, "seq": 197},
    **{"precision": "fp32", "checkpointing": False, "target": "h100", "targets": ["query"], "no_option": ["seed"]},
    **{"trainable_parameters": 5, "adapter_parameters": 3, "own_step_flops": [1, 2], "memory": "default", "workspace_bytes": 9},
    **{"step": ["optimizer=sgd"], "rates": None, "first": STEP, "following": STEP},
}
FAILED = {name: ENTRY[name] for name in ("model", "method", "settings", "rank", "seq", "precision", "checkpointing", "target")}
FAILED |= {"label": "refta/auto", "order": "auto", "targets": ["query"], "no_option": [], "reason": "it changes with the batch"}


@pytest.fixture(scope="module")
def material(run):
    return replace(Material.of(run), steps=[ENTRY, FAILED])


def test_the_steps_come_back_as_they_were(material):
    data = control.data(material)
    assert data is not None
    steps = json.loads(zlib.decompress(base64.b64decode(data["steps"])))
    assert steps[0]["following"] == STEP and steps[1]["following"] is None
    assert [one["reason"] for one in data["variants"]] == ["", "it changes with the batch"]
    assert data["variants"][0]["stem"] == "refta"
    assert (data["step"], data["noOption"]) == (["optimizer=sgd"], ["seed"])
    assert data["memory_bytes"] == material.memory_bytes


def test_code_of_ones_own_has_no_settings_to_name_it_by():
    assert control.variant(ENTRY | {"label": "mine", "method": "python", "settings": None, "order": None})["stem"] == "mine"


def test_a_run_without_steps_has_no_control_and_says_how_to_get_it(run):
    found = Material.of(run)
    assert control.data(found) is None
    section = control.control_section(found)
    assert section is not None and "--resume" in section.blocks[0].text
    assert 'id="control"' not in render(document_of(found))


def test_a_run_none_of_whose_steps_can_be_replayed_says_why(run):
    found = replace(Material.of(run), steps=[FAILED, FAILED | {"label": "refta/other"}])
    assert control.data(found) is None
    section = control.control_section(found)
    assert section is not None and section.blocks[0].text == "At the batches of this run alone: it changes with the batch."


def test_a_run_with_steps_has_one(material):
    document = document_of(material)
    assert document.sections[0].key == control.KEY
    text = render(document)
    assert text.count('id="control-data"') == 1 and 'class="control" hidden' in text


def test_the_table_names_the_winner_at_every_batch(material):
    table = control.control_section(material).blocks[-1]
    assert len(table.rows) == 16
    winner, batch, _, peak, other, margin, fraction = table.rows[0]
    assert (batch.value, other.text != winner.text) == (1, True)
    assert fraction.value == pytest.approx(margin.value / (peak.value + margin.value))


def test_what_is_embedded_ends_no_script():
    hostile = "</script><!--<script>\u2028&"
    text = embedded({"name": hostile})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": hostile}
    assert "\\u003c/script" in text
