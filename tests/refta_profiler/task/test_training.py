"""Whole trainings of a tiny model on sentences that a few words decide: what is broken is worse, what is the same is the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from refta_profiler import plan, processes, scenario, weight_identity
from refta_profiler.report.document import build
from refta_profiler.report.task import verdict_words
from refta_profiler.run_folder import RunFolder
from refta_profiler.task import stage, store, train
from refta_profiler.task.settings import Train
from refta_profiler.task.summary import Summary
from refta_profiler.verdict import verdicts


class Told:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.totals, self.said, self.notes = [], [], []

    def start(self, what, total):
        self.totals.append((what, total))

    def done(self, point, note=""):
        self.notes.append(note)

    def say(self, text):
        self.said.append(text)


def here(count, begin):
    """The pool's jobs run in this process: another takes seconds to start."""
    return ThreadPoolExecutor(1)


def task(tiny, sentences, **changes):
    """The scenario's values."""
    values = {
        "model": str(tiny),
        "weights": "pretrained",
        "target": "cpu",
        "targets": ["query", "value", "up", "down"],
        "methods": [
            {"name": "head"},
            {"name": "lora", "label": "lora", "rank": 2},
            {"name": "lora", "label": "copy", "rank": 2, "alpha": 2},
            {"name": "lora", "label": "broken", "rank": 2, "dropout": 0.0, "alpha": 2.0, "options": {"use_rslora": False}},
            {"name": "refta", "label": "ours", "rank": 16},
        ],
        "batch": 8,
        "measure": {"when": "never"},
        "data": {"train": f"{sentences}/train.csv", "test": f"{sentences}/test.csv", "group": "group"},
        "train": {"steps": 32, "lr": {"default": [1e-9, 3e-2], "broken": 1e-9, "head": 1e-2}, "seeds": [0, 1, 2], "to_loss": 0.5},
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def made(tiny, sentences, tmp_path_factory):
    """A scenario with its finished folder, and what was told."""
    loaded = scenario.from_values(task(tiny, sentences), "test")
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), loaded.text)
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "pool", here)
        stage.train_all(loaded, plan.points(loaded), folder, "cpu", told)
    return loaded, folder, told


def differences(folder):
    return {(one.subject, one.against): one for one in Summary.of(folder).differences}


def test_a_method_with_a_broken_learning_rate_is_called_worse(made):
    found = differences(made[1])
    pair = found.get(("broken", "lora")) or found["lora", "broken"]
    assert pair.outcome == ("worse" if pair.subject == "broken" else "better")
    assert abs(pair.interval.value) > 0.2
    assert found["ours", "broken"].outcome == "better"


def test_two_copies_under_different_names_are_the_same(made):
    found = differences(made[1])
    pair = found.get(("copy", "lora")) or found["lora", "copy"]
    assert pair.outcome == "the same"
    assert (pair.interval.value, pair.interval.low, pair.interval.high) == (0.0, 0.0, 0.0)


def test_it_learns_and_the_rate_that_learns_is_chosen(made):
    summary = Summary.of(made[1])
    assert summary.intervals["lora"].value > 0.9
    assert summary.intervals["ours"].value > 0.9
    assert {one.label: one.rate for one in summary.methods} == {"head": 1e-2, "lora": 3e-2, "copy": 3e-2, "broken": 1e-9, "ours": 3e-2}
    assert summary.named("ours").losses[-1] < 0.5 < summary.named("broken").losses[-1]


def test_the_cost_is_told_before_and_nothing_is_run_twice(made, monkeypatch):
    loaded, folder, told = made
    assert told.said[0].startswith("18 training runs")
    assert "in all (from 3 steps of" in told.said[0]
    assert told.totals == [("choose", 8), ("train", 10)]
    monkeypatch.setattr(processes, "pool", here)
    again = Told()
    stage.train_all(loaded, plan.points(loaded), folder, "cpu", again)
    assert (again.totals, again.said) == ([("choose", 0), ("train", 0)], [])


def test_a_run_that_is_missing_is_made_again_and_comes_out_the_same(made, monkeypatch):
    loaded, folder, _ = made
    path = next((folder.path / "training").glob("*ours*lr0.03.seed1.json"))
    before = path.read_text()
    path.unlink()
    monkeypatch.setattr(processes, "pool", here)
    told = Told()
    stage.train_all(loaded, plan.points(loaded), folder, "cpu", told)
    assert told.totals == [("choose", 0), ("train", 1)]

    def timeless(text):
        return {key: value for key, value in yaml.safe_load(text).items() if "seconds" not in key}

    assert timeless(path.read_text()) == timeless(before)


def test_runs_from_other_weights_are_other_runs(made, monkeypatch, tmp_path):
    loaded, folder, _ = made
    points = plan.points(loaded)
    shared = store.read_shared(folder)
    assert shared["weights"] == stage.weights(loaded, folder) == weight_identity.of(loaded.model)
    monkeypatch.setattr(weight_identity, "of", lambda model: "sample 00000000")
    assert stage.anything(loaded, points, folder)
    splits = stage.data.read(loaded.data, 2, seed=loaded.seed)
    grid = stage.Grid(loaded, stage.trained(loaded, points), splits, "cpu", stage.weights(loaded, folder))
    before, now = ({name for one in told["methods"] for name in one["files"]} for told in (shared, stage.shared(grid)))
    assert len(now) == len(before)
    assert now.isdisjoint(before)
    older = RunFolder.create(tmp_path, loaded.text)
    store.write_shared(older, {name: value for name, value in shared.items() if name != "weights"})
    assert stage.weights(loaded, older) == ""


def test_rows_and_verdicts(made):
    folder = made[1]
    rows = {(row.label, row.metric): row for row in folder.rows()}
    score = rows["ours", "test_accuracy"]
    assert score.note == "3 seeds, 120 test items; interval over both"
    assert rows["ours", "test_accuracy_low"].value <= score.value <= rows["ours", "test_accuracy_high"].value
    assert rows["ours", "learning_rate"].value == 3e-2
    assert "it is at the edge of them" in rows["ours", "learning_rate"].note
    assert ("broken", "steps_to_loss") not in rows
    assert 10 <= rows["ours", "steps_to_loss"].value <= 32
    found = [one for one in verdicts(folder.rows()) if one.kind == "task"]
    assert [one.subject for one in found] == ["ours"]
    assert "3 seeds, 120 test items" in found[0].sentence


def test_the_report_says_what_came_out(made):
    document = build(made[1])
    section = next(one for one in document.sections if one.key == "task")
    assert [one.key for one in section.blocks if hasattr(one, "key")] == ["task-cost", "task", "task-losses", "task-differences"]
    losses = next(one for one in section.blocks if getattr(one, "key", "") == "task-losses")
    assert [[series.name for series in panel.series] for panel in losses.panels] == [["head", "lora", "copy", "broken"], ["ours"]]
    words = " ".join(verdict_words(Summary.of(made[1])))
    assert words.count("3 seeds, 120 items") >= 3
    card = next(one for one in document.cards if one.key == "task")
    assert card.outcome != "not known"


def test_a_failing_training_is_a_row_with_its_reason(tiny, sentences, tmp_path, monkeypatch):
    values = task(tiny, sentences, methods=[{"name": "head"}, {"name": "lora", "rank": 2}])
    loaded = scenario.from_values({**values, "train": {"steps": 2, "lr": {"head": 1e-2, "lora": 1e30}, "seeds": [0]}}, "test")
    folder = RunFolder.create(tmp_path, loaded.text)
    monkeypatch.setattr(processes, "pool", here)
    stage.train_all(loaded, plan.points(loaded), folder, "cpu", Told())
    rows = {(row.label, row.metric): row for row in folder.rows()}
    assert rows["lora", "test_accuracy"].status == "error"
    assert "the loss was no number in step 2 of 2 at learning rate 1e+30" in rows["lora", "test_accuracy"].note
    assert rows["head", "test_accuracy"].status == "ok"
    assert rows["head", "test_accuracy"].note.startswith("1 seed, 120 test items; interval over the items alone")
    section = next(one for one in build(folder).sections if one.key == "task")
    assert "one seed says nothing of others, so that no method is called better or worse" in section.blocks[0].text
    assert "1 seeds" not in str(section)
    assert Summary.of(folder).named("head").adapter_parameters == 0


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [("linear", [0.5, 1.0, 1.0, 0.875]), ("cosine", [0.5, 1.0, 1.0, 0.961940]), ("constant", [0.5, 1.0, 1.0, 1.0])],
)
def test_schedules_by_hand(schedule, wanted):
    settings = Train(steps=10, warmup=0.2, schedule=schedule)
    assert [train.factor(step, 10, settings) for step in range(4)] == pytest.approx(wanted, abs=1e-6)


def test_every_example_comes_once_an_epoch_in_the_seeds_order():
    from refta_profiler.task.inputs import Encoded

    examples = Encoded([[0] * (1 + place % 5) for place in range(50)], [], tuple([0.0] * 50))

    def epoch(seed):
        batches = train.batches(examples, 8, seed)
        return [next(batches) for _ in range(7)]

    assert sorted(place for batch in epoch(3) for place in batch) == list(range(50))
    assert epoch(3) == epoch(3) != epoch(4)
