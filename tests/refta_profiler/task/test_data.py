"""Wrong data is named with its place, and exits with 2 before anything is built."""

import json
import sys

import pytest

from refta_profiler.cli import main
from refta_profiler.task import data
from refta_profiler.task.data import Examples
from refta_profiler.task.data_files import DataFault
from refta_profiler.task.settings import Data


def written(folder, text, name="train.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


GOOD = "text,label\n" + "".join(f"word{number},{number % 2}\n" for number in range(20))


def read(folder, train, test=GOOD, *, labels=2, **columns):
    return data.read(Data(train=written(folder, train), test=written(folder, test, "test.csv"), **columns), labels)


def test_what_is_right_is_read(tmp_path):
    found = read(tmp_path, GOOD)
    assert found.classes == ("0", "1")
    assert (len(found.train), len(found.validation), len(found.test)) == (18, 2, 20)
    assert set(found.train.inputs) & set(found.validation.inputs) == set()


WRONG = [
    ("text,class\na,1\n", {}, "label", "train.csv has no column 'label'; (it has text, class)"),
    ("label,body\n1,a\n", {}, "text", "train.csv has no column 'text'; (it has label, body)"),
    (GOOD, {"group": "document"}, "group", "train.csv has no column 'document'; (it has text, label)"),
    ("text,label\na,1\n  ,0\n", {}, "train", "train.csv, line 3: the text is empty (column 'text'); leave such rows out"),
    ("text,label\na,1\nb,1\n", {}, "train", "every example has the label '1'; nothing can be learned from one class"),
    (
        "text,label\na,0\nb,1\nc,2\n",
        {},
        "train",
        "train.csv, line 4: the label 2 is none of the head's 2 (0 to 1); write task: {num_labels: 3}, or ",
    ),
    (
        "text,label\na,x\nb,y\nc,z\n",
        {},
        "train",
        "there are 3 labels (x, y, z) and the head has 2; write task: {num_labels: 3}, or give other data",
    ),
    ("text,label\na,1\nb,\n", {}, "train", "train.csv, line 3: the label is empty"),
    ("text,label\n", {}, "train", "holds no examples"),
]


@pytest.mark.parametrize(("text", "columns", "key", "message"), WRONG)
def test_what_is_wrong_is_named_with_its_place(tmp_path, text, columns, key, message):
    with pytest.raises(DataFault) as found:
        read(tmp_path, text, **columns)
    assert found.value.key == key
    assert str(found.value).startswith(message)


def test_a_label_that_only_test_has_is_named(tmp_path):
    with pytest.raises(DataFault, match=r"test.csv, line 2: the label 'maybe' is none of those in train \(no, yes\)"):
        read(tmp_path, "text,label\n" + "a,yes\nb,no\n" * 9, "text,label\na,maybe\n")


def test_a_number_is_wanted_where_one_is_predicted(tmp_path):
    with pytest.raises(DataFault, match=r"train.csv, line 3: the label 'high' is no number, and num_labels: 1 predicts one"):
        read(tmp_path, "text,label\na,0.5\nb,high\n", labels=1)
    found = read(tmp_path, GOOD.replace(",1\n", ",1.5\n"), GOOD, labels=1)
    assert set(found.train.targets) == {0.0, 1.5} and found.classes == ()


def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path):
    written(tmp_path, GOOD)
    with pytest.raises(DataFault, match=r"there is no file '.*trian.csv'; did you mean 'train.csv'\?"):
        data.read(Data(train=str(tmp_path / "trian.csv"), test=str(tmp_path / "train.csv")), 2)
    with pytest.raises(DataFault, match=r"'train.xls' is of no kind that is read here; give a .csv, .tsv"):
        data.read(Data(train=written(tmp_path, GOOD, "train.xls"), test=str(tmp_path / "train.csv")), 2)


def test_json_lines(tmp_path):
    lines = "\n".join(json.dumps({"text": f"w{number}", "label": number % 2}) for number in range(20))
    found = data.read(Data(train=written(tmp_path, lines, "a.jsonl"), test=written(tmp_path, lines, "b.jsonl"), validation_share=0.4), 2)
    assert found.test.targets == tuple(float(number % 2) for number in range(20))
    with pytest.raises(DataFault, match=r"c.jsonl: cannot be read: line 2 holds no mapping"):
        data.read(Data(train=written(tmp_path, '{"text": "a", "label": 1}\n3\n', "c.jsonl"), test=written(tmp_path, lines, "b.jsonl")), 2)


def test_a_folder_of_images_by_class(tmp_path):
    from PIL import Image

    for kind, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "all" / kind).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "all" / kind / f"{number}.png")
    found = data.read(Data(train=str(tmp_path / "all"), test=str(tmp_path / "all"), validation=str(tmp_path / "all")), 2)
    assert found.images and found.classes == ("cat", "dog") and len(found.test) == 12
    (tmp_path / "none").mkdir()
    with pytest.raises(DataFault, match="holds no folders; give a folder with one folder of images a class"):
        data.read(Data(train=str(tmp_path / "none"), test=str(tmp_path / "all")), 2)


def test_the_datasets_library_is_asked_only_where_it_is_there():
    try:
        import datasets  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(DataFault, match="the datasets library is not installed"):
            data.read(Data(name="glue:sst2", train="train", test="validation"), 2)


def test_whole_groups_are_set_aside():
    examples = Examples(("a", "b", "c", "d"), (0.0, 1.0, 0.0, 1.0), ("one", "one", "two", "two"))
    train, validation = data.set_aside(examples, 0.5, seed=0)
    assert {len(train), len(validation)} == {2}
    assert set(train.groups) != set(validation.groups)
    assert data.set_aside(examples, 0.5, seed=0) == (train, validation)


def test_something_is_left_to_train_on():
    examples = Examples(("a", "b"), (0.0, 1.0), ("one", "two"))
    assert [len(one) for one in data.set_aside(examples, 0.99, seed=0)] == [1, 1]


SCENARIO = """\
model: {model}
weights: pretrained
methods: [{{name: head}}]
batch: 4
measure: {{when: never}}
data: {{train: {data}/train.csv, test: {data}/test.csv}}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.label=sign", "--set data.label: train.csv has no column 'sign'; (it has text, label, group)"),
        ("task={num_labels: 3}", "data.train: there are 2 labels (bad, good) and the head has 3; write task: {num_labels: 2}"),
        ("data.test=nowhere.csv", "--set data.test: there is no file"),
        ("data.test=null", "data.test: nothing is written here"),
        ("data.txet=a", "data: unknown key 'txet'; did you mean 'text'?"),
        ("train={steps: 3, epochs: 2}", "train.epochs: is there beside steps; write one of the two"),
        ("train={lr: {lorra: [0.1], default: [1.0]}}", "train.lr: 'lorra' is no label or method here"),
        ("train={lr: [-1.0]}", "train.lr: -1.0 is too small"),
        ("train={seeds: [1, 1]}", "train.seeds: a seed is there twice"),
        ("train={lr: {lora: [0.1, 1.0e-1], default: [1.0]}}", "train.lr: lora: 0.1 is there twice; write each"),
        ("parallel=ddp:2", "parallel: with data a training is one process"),
        ("accumulate=2", "accumulate: with data every step is one batch"),
    ],
)
def test_the_command_line_says_where_and_exits_with_2(tiny, sentences, tmp_path, capsys, monkeypatch, change, message):
    (tmp_path / "task.yaml").write_text(SCENARIO.format(model=tiny, data=sentences))
    monkeypatch.setattr(sys, "argv", ["profiler", "run", str(tmp_path / "task.yaml"), "--out", str(tmp_path / "out"), "--set", change])
    assert main() == 2
    said = capsys.readouterr().err
    assert message in said, said
    assert not (tmp_path / "out").exists()
