"""What README.md shows works: its example of the library, its scenario, the verbs that it names."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from real_steps import tiny

from refta_profiler import models, plan
from refta_profiler import scenario as scenarios

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_of_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    point = tiny("roberta-tiny", "head")
    model, fresh_model = (models.build(point, "cpu").eval() for _ in range(2))
    batch = models.batch(point, "cpu")
    before = model(**batch).logits
    (code,) = blocks("python")
    exec(code, {"model": model, "fresh_model": fresh_model})  # the text is this repository's own
    assert (tmp_path / "adapter.safetensors").exists()
    for one in (model, fresh_model):
        torch.testing.assert_close(one(**batch).logits, before, rtol=1e-5, atol=1e-5)


def test_the_scenario(tmp_path):
    (text,) = blocks("yaml")
    (tmp_path / "readme.yaml").write_text(text)
    loaded = scenarios.load(tmp_path / "readme.yaml", [])
    assert len(plan.points(loaded)) == 7 * 6 * 2


def test_every_verb_is_named_and_no_other():
    found = subprocess.run([sys.executable, "-m", "refta_profiler", "--help"], capture_output=True, text=True, check=True).stdout
    verbs = set(re.findall(r"^  ([a-z]+)  ", found.split("Commands:")[1], re.MULTILINE))
    table = README.split("| verb | answers |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)", table)) - {"reports", "results", "report"} >= verbs - {"report"}
    for verb in verbs:
        assert f"| `{verb}" in table


def test_files_that_it_points_at_are_there():
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
