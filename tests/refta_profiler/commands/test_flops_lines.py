"""Where step FLOPs cross: from dry runs, so that checkpointing's second forward is in it."""

import pytest

from refta_profiler.commands import check, check_answer, check_runs, flops_lines, peak_lines
from refta_profiler.commands.flops_lines import Fewer


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({1: 12, 10: 30}, {1: 4, 10: 40}, Fewer("other", 4)),
        ({1: 12, 8: 26, 10: 30}, {1: 4, 3: 12, 10: 40}, Fewer("other", 4)),
        ({1: 13, 10: 31}, {1: 4, 10: 40}, Fewer("other", 5)),  # they meet at 5½
        ({1: 4, 10: 40}, {1: 4, 10: 31}, Fewer("other", None)),  # at 1
        ({1: 4, 10: 40}, {1: 5, 10: 50}, Fewer("one", None)),  # they meet at 0
        ({1: 5, 10: 41}, {1: 4, 10: 40}, Fewer("other", None)),  # they never meet
        ({1: 5, 10: 50}, {1: 4, 10: 49}, Fewer("other", None)),
        ({1: 7, 5: 15}, {2: 9, 4: 13}, Fewer(None, None)),
        ({1: 4, 3: 5, 10: 40}, {1: 5, 10: 50}, None),  # one lies beside the line
        ({1: 4, 3: 5}, {1: 5, 10: 50}, None),  # half a FLOP a batch
        ({1: 4}, {1: 5, 10: 50}, None),
    ],
)
def test_of_two_lines_in_the_batch(one, other, expected):
    assert flops_lines.fewer({"one": one, "other": other}) == expected


@pytest.mark.slow
def test_the_forward_that_checkpointing_repeats_moves_the_crossing(monkeypatch):
    """Held against dry runs on both sides of where they cross: what checkpointing does twice moves it."""
    monkeypatch.setattr(peak_lines, "FIRST_TRIED", (1, 48))
    for module in (peak_lines, check_runs, check_answer):
        monkeypatch.setattr(module, "LAST", 48)
    crossed = {}
    for checkpointing in (False, True):
        question = {"rank": 17, "seq": 2, "target": "cpu", "order": "shared", "against": "reconstruct", "checkpointing": checkpointing}
        found = check.command("roberta-tiny", 4, **question)
        (largest,) = [one for one in found.data if one["kind"] == "largest_batch" and one["against"] == "refta/reconstruct"]
        crossed[checkpointing] = largest["step_flops"]["up_to_batch"]
        assert largest["step_flops_known"] and largest["step_flops"]["fewer"] == "refta/shared"
        for batch, fewer in ((crossed[checkpointing], True), (crossed[checkpointing] + 1, False)):
            flops = {one["label"]: one["step_flops"] for one in at(batch, question) if one["kind"] == "peak"}
            assert (flops["refta/shared"] < flops["refta/reconstruct"]) == fewer
    assert crossed[True] != crossed[False]


def at(batch, question):
    return check.command("roberta-tiny", batch, quick=True, **question).data
