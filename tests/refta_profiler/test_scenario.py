"""A scenario is checked as a whole: every mistake is one line that names the file, the place, the fault and what would be right."""

import json
import subprocess
import sys

import pytest
import yaml

from refta_profiler import model_source, models, plan, scenario
from refta_profiler.errors import ScenarioError

GOOD = """\
model: vit-tiny
targets: [query, value]
methods:
  - {name: head}
  - {name: lora, rank: 2}
  - {name: refta, rank: 3, label: ours, order: [shared, reconstruct]}
batch: [1, 2]
"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr(model_source, "reachable", lambda: False)


@pytest.fixture
def load(tmp_path):
    """Loads a scenario from its text, with overrides."""

    def loaded(text, *overrides):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return scenario.load(path, list(overrides))

    return loaded


@pytest.fixture
def refused(load):
    """The lines of what is said of a wrong scenario."""

    def lines(text, *overrides):
        with pytest.raises(ScenarioError) as caught:
            load(text, *overrides)
        assert caught.value.exit_code == 2
        return str(caught.value).splitlines()

    return lines


# ---- what is filled in


def test_the_least_scenario(load):
    made = load("model: vit-large\nmethods: [{name: head}]\nbatch: 8\n")
    assert (made.name, made.batch, made.seq, made.target, made.weights, made.seed) == ("s", [8], None, "h100", "random", 0)
    assert made.targets == ["query", "value"]
    assert (made.task.kind, made.task.num_labels, made.task.train_head) == ("image-classification", 10, True)
    assert (made.precision, made.checkpointing, made.optimizer) == (["fp32"], [False], "adamw")
    assert (made.adapter_dtype, made.attention) == ("float32", "sdpa")
    assert (made.accumulate, made.clip, made.baseline) == (1, None, "best")
    assert (made.measure.when, made.measure.warmup, made.measure.steps, made.measure.repeats) == ("auto", 3, 10, 3)
    assert (made.measure.on_cpu.batch, made.measure.on_cpu.budget_s) == ([8], 300.0)


@pytest.mark.parametrize(
    ("model", "task", "kind", "labels", "head", "targets", "seq"),
    [
        ("roberta-base", "{}", "sequence-classification", 2, True, ["query", "value"], [128]),
        ("roberta-tiny", "{train_head: false}", "sequence-classification", 2, False, ["query", "value"], [64]),
        ("gpt2", "{}", "causal-lm", None, False, ["qkv"], [128]),
        ("gpt2", "{num_labels: 4}", "sequence-classification", 4, True, ["qkv"], [128]),
        ("llama-3.2-1b", "{kind: sequence-classification}", "sequence-classification", 2, True, ["query", "value"], [128]),
        ("vit-huge", "{num_labels: 37}", "image-classification", 37, True, ["query", "value"], None),
    ],
)
def test_what_follows_from_the_model(load, model, task, kind, labels, head, targets, seq):
    made = load(f"model: {model}\ntask: {task}\nmethods: [{{name: head}}]\nbatch: [1]\n")
    assert (made.task.kind, made.task.num_labels, made.task.train_head, made.targets, made.seq) == (kind, labels, head, targets, seq)


@pytest.mark.parametrize(
    "text", [GOOD, "model: gpt2\nmethods: [{name: refta, rank: [1, 2]}]\nbatch: 4\nseq: [8, 16]\nclip: 1\nname: 'no'\n"]
)
def test_the_frozen_text_gives_the_same_scenario(load, text):
    made = load(text)
    again = load(made.text)
    assert again == made.model_copy(update={"name": again.name}) if "name" not in text else again == made
    assert again.text == made.text
    assert yaml.safe_load(made.text)["name"] == made.name  # other readers of YAML read it alike


def test_a_given_name_is_kept_in_the_frozen_text(load, tmp_path):
    (tmp_path / "scenario.yaml").write_text(load(GOOD).text)
    assert scenario.load(tmp_path / "scenario.yaml").name == "s"


def test_values_without_a_file():
    made = scenario.from_values({"model": "vit-tiny", "methods": [{"name": "head"}], "batch": [3]}, "check")
    assert (made.name, made.batch) == ("check", [3])
    with pytest.raises(ScenarioError, match=r"^check: batch\[0\]: 0 is too small"):
        scenario.from_values({"model": "vit-tiny", "methods": [{"name": "head"}], "batch": [0]}, "check")


def test_a_folder_is_found_from_the_scenarios_folder(load, tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    entry = models.presets()["roberta-tiny"]
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta", **entry["config"]}))
    made = load("model: my-model\nmethods: [{name: head}]\nbatch: [1]\n")
    assert made.model == str(folder)
    assert made.task.kind == "sequence-classification"


def test_the_projects_own_scenarios():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "scenarios"
    for path in sorted(folder.glob("*.yaml")):
        made = scenario.load(path)
        assert made.name == path.stem
    vit_l = scenario.load(folder / "vit_l.yaml")
    assert (vit_l.model, vit_l.target, vit_l.task.num_labels, vit_l.batch[-1], vit_l.measure.on_cpu.batch) == (
        "vit-large",
        "h100",
        37,
        128,
        [1, 2],
    )


# ---- mistakes


def change(old, new=""):
    """The good scenario with one thing changed."""
    assert old in GOOD
    return GOOD.replace(old, new)


MISTAKES = [
    # wrong keys
    ("bach: 3\n" + GOOD, "s.yaml: unknown key 'bach'; did you mean 'batch'?"),
    ("steps: 3\n" + GOOD, "s.yaml: unknown key 'steps' here; did you mean 'measure.steps'?"),
    ("xyzzy: 3\n" + GOOD, "s.yaml: unknown key 'xyzzy'; there are name, model, task, "),
    ("task: {num_label: 3}\n" + GOOD, "s.yaml: task: unknown key 'num_label'; did you mean 'num_labels'?"),
    ("measure: {on_cpu: {stps: 3}}\n" + GOOD, "s.yaml: measure.on_cpu: unknown key 'stps'; did you mean 'steps'?"),
    (change("{name: refta, rank", "{name: refta, rnk"), "s.yaml: methods[2]: unknown key 'rnk'; did you mean 'rank'?"),
    (change("{name: head}", "{name: head, order: shared}"), "s.yaml: methods[0]: head has no orders; leave 'order' out"),
    (change("{name: head}", "{nam: head}"), "s.yaml: methods[0]: 'name' is missing"),
    ("7: 3\n" + GOOD, "s.yaml: the key 7 is not a word"),
    # missing keys
    (change("model: vit-tiny\n"), "s.yaml: 'model' is missing; e.g. `model: vit-large`"),
    (change("batch: [1, 2]\n"), "s.yaml: 'batch' is missing; e.g. `batch: [1, 8, 32]`"),
    ("model: vit-tiny\nbatch: 1\n", "s.yaml: 'methods' is missing; e.g. `methods: [{name: refta, rank: 15}]`"),
    # unknown names
    (change("vit-tiny", "vit-tinny"), "s.yaml: model: unknown model 'vit-tinny'; did you mean 'vit-tiny'? (presets: "),
    (change("vit-tiny", "google/vit-tiny"), "s.yaml: model: the hub name 'google/vit-tiny' cannot be reached: no connection to the hub"),
    (change("vit-tiny", "./nothing"), "s.yaml: model: there is no folder './nothing'"),
    (change("name: refta", "name: rafta"), "s.yaml: methods[2].name: unknown method 'rafta'; did you mean 'refta'? there are "),
    (
        change("shared, reconstruct", "sharde"),
        "s.yaml: methods[2].order: unknown order 'sharde' of refta; did you mean 'shared'? there are ",
    ),
    ("target: h1000\n" + GOOD, "s.yaml: target: unknown device 'h1000'; did you mean 'h100'? (devices: t4, "),
    ("precision: [fp32, bf61]\n" + GOOD, "s.yaml: precision[1]: unknown value 'bf61'; did you mean 'bf16'?"),
    ("precision: int8\n" + GOOD, "s.yaml: precision: unknown value 'int8'; there are 'fp32', 'bf16', 'amp-bf16'"),
    ("optimizer: adam\n" + GOOD, "s.yaml: optimizer: unknown value 'adam'; did you mean 'adamw'?"),
    ("weights: pretraind\n" + GOOD, "s.yaml: weights: unknown value 'pretraind'; did you mean 'pretrained'?"),
    (
        "baseline: our/shared\n" + GOOD,
        "s.yaml: baseline: no method has the label 'our/shared'; did you mean 'ours/shared'? there are best, head, lora, ",
    ),
    ("measure: {when: allways}\n" + GOOD, "s.yaml: measure.when: unknown value 'allways'; did you mean 'always'?"),
    # roles
    (change("[query, value]", "[query, gate]"), "s.yaml: targets[1]: vit-tiny has no role 'gate'"),
    (
        change("[query, value]", "[qurey]"),
        "s.yaml: targets[0]: vit-tiny has no role or linear 'qurey' in its layers; did you mean 'query'?",
    ),
    (change("[query, value]", "[query, query]"), "s.yaml: targets: 'query' is there 2 times"),
    (
        change("[query, value]", "[query, q_proj]"),
        "s.yaml: targets: 'query' and 'q_proj' both mean vit.layers.0.attention.q_proj of vit-tiny",
    ),
    # numbers
    (change("[1, 2]", "[1, 0]"), "s.yaml: batch[1]: 0 is too small; the least is 1"),
    (change("[1, 2]", "-4"), "s.yaml: batch: -4 is too small; the least is 1"),
    (change("[1, 2]", "[1, 8.0]"), "s.yaml: batch[1]: 8.0 is not a whole number; write 8"),
    (change("[1, 2]", "[1, true]"), "s.yaml: batch[1]: true is not a whole number"),
    (change("[1, 2]", "[1, '8']"), "s.yaml: batch[1]: '8' is not a whole number but text; write 8 without quotes"),
    (change("[1, 2]", "[1, eight]"), "s.yaml: batch[1]: 'eight' is not a whole number; write one, e.g. 8"),
    (change("[1, 2]", "[1, [2]]"), "s.yaml: batch[1]: [2] is not a whole number"),
    (change("[1, 2]", "[]"), "s.yaml: batch: is an empty list; give at least one"),
    (change("[1, 2]", ""), "s.yaml: batch: nothing is written here"),
    (change("[1, 2]", "{a: 1}"), "s.yaml: batch: {'a': 1} is a mapping, not a list"),
    (change("[1, 2]", "[1, 2, 1]"), "s.yaml: batch: 1 is there 2 times; write it once"),
    (change("[1, 2]", "1e1"), "s.yaml: batch: 10.0 is not a whole number; write 10"),
    ("measure: {on_cpu: {budget_s: 0}}\n" + GOOD, "s.yaml: measure.on_cpu.budget_s: 0 is too small; it must be more than 0"),
    ("clip: .nan\n" + GOOD, "s.yaml: clip: nan is not"),
    ("seed: -1\n" + GOOD, "s.yaml: seed: -1 is too small; the least is 0"),
    ("seed: 99999999999999999999\n" + GOOD, "s.yaml: seed: 99999999999999999999 is too large"),
    # switches and words
    ("checkpointing: yes\n" + GOOD, "s.yaml: checkpointing: 'yes' is not true or false; write true"),
    ("checkpointing: [false, off]\n" + GOOD, "s.yaml: checkpointing[1]: 'off' is not true or false; write false"),
    ("checkpointing: 1\n" + GOOD, "s.yaml: checkpointing: 1 is not true or false"),
    (
        "loop: {attention_mask: aditive}\n" + GOOD,
        "s.yaml: loop.attention_mask: unknown value 'aditive'; did you mean 'additive'? there are false, true, 'additive'",
    ),
    (change("label: ours", "label: 7"), "s.yaml: methods[2].label: 7 is not a name"),
    ("name: 3\n" + GOOD, "s.yaml: name: 3 is not a name; write a word, or quote it: '3'"),
    ("name: a/b\n" + GOOD, "s.yaml: name: 'a/b' cannot name a folder"),
    # shapes of values
    (change("{name: head}", "head"), "s.yaml: methods[0]: 'head' is not a mapping; write {name: head}"),
    (change("{name: head}", "[head]"), "s.yaml: methods[0]: ['head'] is not a mapping; write e.g. {name: refta, rank: 15}"),
    ("model: vit-tiny\nbatch: 1\nmethods: {name: head}\n", "s.yaml: methods: {'name': 'head'} is a mapping, not a list"),
    ("model: vit-tiny\nbatch: 1\nmethods: []\n", "s.yaml: methods: is an empty list"),
    ("task: [3]\n" + GOOD, "s.yaml: task: [3] is a list, not a mapping"),
    ("measure: {on_cpu: 3}\n" + GOOD, "s.yaml: measure.on_cpu: 3 is not a mapping"),
    # tasks and sequences
    ("seq: 128\n" + GOOD, "s.yaml: seq: vit-tiny reads images (197 tokens an image), so its sequence length is not set; leave seq out"),
    ("task: {kind: causal-lm}\n" + GOOD, "s.yaml: task.kind: vit-tiny is for image-classification, not for causal-lm"),
    ("task: {num_labels: 0}\n" + GOOD, "s.yaml: task.num_labels: 0 is too small"),
    ("seq: [8, 513]\n" + change("vit-tiny", "roberta-base"), "s.yaml: seq[1]: 513 tokens are more than the 512 positions of roberta-base"),
    ("weights: pretrained\nseq: 8\n" + change("vit-tiny", "roberta-tiny"), "s.yaml: weights: no pretrained weights for 'roberta-tiny'"),
    ("weights: pretrained\n" + GOOD, "s.yaml: weights: the hub name 'WinKawaks/vit-tiny-patch16-224' cannot be reached"),
    # ranks
    (change("rank: 3", "rank: 2305"), "s.yaml: methods[2]: rank: 2305; the 12 query layers of 192 × 192 have at most 2304 components"),
    # points
    (change("{name: head}", "{name: lora, rank: 2}"), "s.yaml: methods[1]: the same point is in methods[0] already: lora"),
    (change("shared, reconstruct", "shared, shared"), "s.yaml: methods[2]: the same point is in this entry already: refta order=shared"),
    (change("{name: head}", "{name: head, label: ours}"), "s.yaml: methods[2].label: 'ours' is the label of methods[0] already"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES, ids=[says[8:70] for _, says in MISTAKES])
def test_a_mistake_is_one_line(refused, text, says):
    lines = refused(text)
    assert len(dict.fromkeys(lines)) == 1, lines
    assert lines[0].startswith(says), lines[0]


def test_numbers_that_look_like_words(load):
    """YAML 1.1 would read 1e-3 as a word and 12:30 or 010 as other numbers."""
    assert load("clip: 1e-3\n" + GOOD).clip == 0.001
    assert load("seed: 010\n" + GOOD).seed == 10


@pytest.mark.parametrize("rank", ["-3", "0", "8.0", "true", "'8'", "eight", "[]", "null"])
def test_ranks_that_are_none(refused, rank):
    lines = refused(change("rank: 3", f"rank: {rank}"))
    assert all(line.startswith("s.yaml: methods[2]") and "rank" in line for line in lines), lines


STACKS = [("[qkv]", 3 * 49, "qkv"), ("[qkv, output]", 3 * 48, "output"), ("[down]", 3 * 48, "down"), ("[mlp.c_fc]", 3 * 49, "up")]


@pytest.mark.parametrize(("roles", "most", "role"), STACKS)
def test_the_largest_rank_is_that_of_the_smallest_stack(load, refused, roles, most, role):
    """GPT-2 of 3 layers, 48 wide: qkv is 144 × (48 + 1), output 48 × 49, down 48 × 193, up 192 × 49."""
    text = "model: gpt2-tiny\ntargets: {}\nmethods: [{{name: refta, rank: {}}}]\nbatch: 1\nseq: 8\n"
    assert load(text.format(roles, most)).methods[0]["rank"] == most
    (line,) = refused(text.format(roles, most + 1))
    assert f"rank: {most + 1}; the 3 {role} layers" in line
    assert f"at most {most} components" in line


def test_without_bias_there_is_no_extra_column(load, refused):
    text = "model: llama-tiny\ntargets: [gate]\nmethods: [{{name: refta, rank: {}}}]\nbatch: 1\nseq: 8\n"
    load(text.format(3 * 64))
    (line,) = refused(text.format(3 * 64 + 1))
    assert "the 3 gate layers of 128 × 64 have at most 192 components" in line


def test_all_mistakes_are_told_at_once(refused):
    text = (
        GOOD.replace("vit-tiny", "vit-tinny").replace("rank: 2", "rnk: 2").replace("[1, 2]", "[0, yes]")
        + "target: h10\ncheckpointing: no\nx: 1\n"
    )
    places = [line.split(": ")[1] for line in refused(text, "optimizer=adam")]
    assert places[0].startswith("unknown key 'x'; there are name, model, task, ")
    assert places[1:-1] == ["model", "methods[1]", "batch[0]", "batch[1]", "target", "checkpointing"]
    assert places[-1].startswith("unknown value 'adam'; did you mean 'adamw'?")


def test_a_mistake_hides_no_other_kind_of_mistake(refused):
    """A stand-in takes a wrong value's place, and nothing is said of the stand-in."""
    lines = refused(GOOD.replace("rank: 3", "rank: 99999").replace("[1, 2]", "[0]"))
    assert [line.split(": ")[1] for line in lines] == ["methods[2]", "batch[0]"]
    assert refused(GOOD.replace("model: vit-tiny", "model: 7") + "seq: 3\n") == [
        "s.yaml: model: 7 is not a name; write a word, or quote it: '7'"
    ]


# ---- --set


def test_overrides(load):
    made = load(GOOD, "batch=[4,8]", "measure.on_cpu.steps=2", "methods[2].rank=5", "target=l4", "clip=1e-1", "measure.when=never")
    assert (made.batch, made.measure.on_cpu.steps, made.measure.when, made.methods[2]["rank"]) == ([4, 8], 2, "never", 5)
    assert (made.target, made.clip) == ("l4", 0.1)
    assert "target: l4" in made.text


@pytest.mark.parametrize(("written", "name"), [("a100", "a100-80"), ("H100", "h100"), ("CPU", "cpu"), ("l4", "l4")])
def test_a_device_has_its_own_name_however_it_is_written(load, written, name):
    """As measurements call it: a run with two names for one device would judge without what was measured."""
    made = load(GOOD, f"target={written}")
    assert made.target == load(f"target: {written}\n" + GOOD).target == name
    assert f"target: {name}\n" in made.text
    assert {point.target for point in plan.points(made)} == {name}


def test_an_override_of_the_batch_needs_no_other_change(load):
    text = GOOD + "measure: {on_cpu: {batch: [1, 2]}}\n"
    assert load(text, "batch=[64]").measure.on_cpu.batch == [1, 2]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("batch", "--set batch: not of the form key=value, e.g. --set batch=[4,8]"),
        ("=3", "--set =3: not of the form key=value"),
        ("a..b=3", "--set a..b=3: not of the form key=value"),
        ("batch=[4,8", "--set batch=[4,8: line 1, column 5: not YAML"),
        ("bach=4", "--set bach: unknown key 'bach'; did you mean 'batch'?"),
        ("batch=0", "--set batch: 0 is too small"),
        ("batch=[4,0]", "--set batch: batch[1]: 0 is too small"),
        ("methods[7].rank=3", "--set methods[7].rank=3: methods has 3 entries, the first is [0]"),
        ("methods.rank=3", "--set methods.rank=3: methods is a list of 3; write methods[0].rank"),
        ("model.name=3", "--set model.name=3: model is not a mapping"),
        ("x[0].y=3", "--set x[0].y=3: x is not a list"),
        ("model[0]=3", "--set model[0]=3: model is not a list"),
        ("methods[2].rnk=3", "--set methods[2].rnk: methods[2]: unknown key 'rnk'"),
        ("model=vit-larg", "--set model: unknown model 'vit-larg'; did you mean 'vit-large'?"),
    ],
)
def test_wrong_overrides(refused, override, says):
    (line,) = refused(GOOD, override)
    assert line.startswith(says) or (says in line and "rnk" in says), line


# ---- start-up


def test_loading_and_planning_imports_no_torch(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    code = (
        "import sys; from refta_profiler import scenario, plan\n"
        f"plan.points(scenario.load({str(path)!r}))\n"
        "print([x for x in ('torch', 'transformers', 'pandas', 'matplotlib', 'huggingface_hub', 'peft') if x in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
