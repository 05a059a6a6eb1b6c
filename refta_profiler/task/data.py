"""A task's examples, read and checked as a whole before anything is built; what is wrong is named with its file and line. No torch.

A file is CSV (.csv, .tsv), JSON lines (.jsonl, .json) or Parquet; a folder holds a folder of images a class.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refta_profiler.errors import ScenarioError
from refta_profiler.scenario_messages import shown
from refta_profiler.suggest import closest
from refta_profiler.task.settings import Data

SPLITS = ("train", "validation", "test")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FORMATS = "a .csv, .tsv, .jsonl, .json or .parquet file, or a folder of images by class"
Rows = Sequence[tuple[str, Mapping[str, Any]]]  # where each row stands, and what it holds


@dataclass(frozen=True)
class Examples:
    """One split: an input each (a text, or an image's path), a target each (a class's number, or a number to predict), and its group."""

    inputs: tuple[str, ...]
    targets: tuple[float, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, places: Sequence[int]) -> Examples:
        """The examples at those places."""
        return Examples(*(tuple(column[place] for place in places) for column in (self.inputs, self.targets, self.groups)))


@dataclass(frozen=True)
class Splits:
    """The three splits, and what the classes are called (none where a number is predicted)."""

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...]
    images: bool = False

    @property
    def digest(self) -> str:
        """Eight hex digits that change with any example or its place."""
        content = [[split.inputs, split.targets] for split in (self.train, self.validation, self.test)]
        return hashlib.sha256(json.dumps([content, self.classes]).encode()).hexdigest()[:8]


class DataFault(ScenarioError):
    """What is wrong with the data, and under which of its keys."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def read(data: Data, num_labels: int, *, seed: int = 0) -> Splits:
    """The three splits; DataFault where a file, a column, a text or a label is not as it must be.

    num_labels: classes of the head, or 1 where a number is predicted. seed: of the validation split that is set aside from train.
    """
    found = {key: _rows(data, key) for key in SPLITS if isinstance(getattr(data, key), str)}
    images = all(_is_folder(data, key) for key in found)
    if not images and any(_is_folder(data, key) for key in found):
        raise DataFault("test", "train is a folder of images and test is not, or the other way round; give two folders or two files")
    columns = (data.text, data.label, data.group)
    raw = {key: _checked(key, rows, columns) for key, rows in found.items()}
    classes = () if num_labels == 1 else _classes(raw["train"], num_labels)
    read_all = {key: _examples(key, rows, classes) for key, rows in raw.items()}
    if "validation" not in read_all:
        read_all["train"], read_all["validation"] = set_aside(read_all["train"], data.validation_share, seed=seed)
    for key in SPLITS:
        _useful(key, read_all[key], classes)
    return Splits(read_all["train"], read_all["validation"], read_all["test"], classes, images)


# ---- rows


def _is_folder(data: Data, key: str) -> bool:
    return data.name is None and Path(getattr(data, key)).is_dir()


def _rows(data: Data, key: str) -> Rows:
    """The rows of a split, each with where it stands."""
    if data.name is not None:
        return _library_rows(data.name, getattr(data, key), key)
    path = Path(getattr(data, key))
    if path.is_dir():
        return list(_images(path, key, data))
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Mapping[str, Any]]]]] = {
        ".csv": lambda one: _table(one, ","),
        ".tsv": lambda one: _table(one, "\t"),
        ".jsonl": _json_lines,
        ".json": _json_lines,
        ".parquet": _parquet,
    }
    if not path.is_file():
        near = closest(path.name, [one.name for one in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise DataFault(key, f"there is no file '{path}'" + (f"; did you mean '{near}'?" if near else ""))
    if path.suffix not in readers:
        raise DataFault(key, f"'{path.name}' is of no kind that is read here; give {FORMATS}")
    try:
        return list(readers[path.suffix](path))
    except UnicodeDecodeError as error:
        raise DataFault(key, f"{path.name}: not a text file: byte {error.start} is not UTF-8") from None
    except (OSError, ValueError, csv.Error, ImportError) as error:
        raise DataFault(key, f"{path.name}: cannot be read: {error}") from None


def _table(path: Path, separator: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=separator)
        for row in reader:
            yield f"{path.name}, line {reader.line_num}", row


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f'line {number} holds no mapping; write one JSON object a line, e.g. {{"text": "…", "label": 0}}')
                yield f"{path.name}, line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pandas

    for number, row in enumerate(pandas.read_parquet(path).to_dict("records"), start=1):
        yield f"{path.name}, row {number}", {str(key): value for key, value in row.items()}


def _images(folder: Path, key: str, data: Data) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A row an image, its class the folder that it is in."""
    classes = sorted(one for one in folder.iterdir() if one.is_dir())
    if not classes:
        raise DataFault(key, f"'{folder}' holds no folders; give a folder with one folder of images a class")
    for one in classes:
        found = sorted(path for path in one.iterdir() if path.suffix.lower() in IMAGES)
        if not found:
            raise DataFault(key, f"'{one}' holds no images ({', '.join(IMAGES)})")
        for path in found:
            yield str(path), {data.text: str(path), data.label: one.name, **({data.group: path.name} if data.group else {})}


def _library_rows(name: str, split: str, key: str) -> Rows:
    """The rows of a split of a data set of the datasets library, where that is installed and the set can be had."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataFault("name", "the datasets library is not installed; `pip install datasets`, or leave name out and give files") from None
    path, _, part = name.partition(":")
    try:
        found = datasets.load_dataset(path, part or None, split=split)
    except Exception as error:  # the library raises errors of its own, of the hub's client and of the file formats
        raise DataFault(key, f"split '{split}' of '{name}' cannot be had: {(str(error).splitlines() or [''])[0]}") from None
    return [(f"{name} {split}, row {number}", row) for number, row in enumerate(found, start=1)]


# ---- checks


def _checked(key: str, rows: Rows, columns: tuple[str, str, str | None]) -> list[tuple[str, str, Any, str]]:
    """Place, text, label and group of every row."""
    if not rows:
        raise DataFault(key, "holds no examples")
    text, label, group = columns
    for kind, column in (("text", text), ("label", label), ("group", group)):
        if column is not None and column not in rows[0][1]:
            have = [str(name) for name in rows[0][1]]
            near = closest(column, have)
            hint = f"did you mean '{near}'? " if near else ""
            raise DataFault(kind, f"{rows[0][0].split(', ')[0]} has no column '{column}'; {hint}(it has {', '.join(have)})")
    found = []
    for place, row in rows:
        value = row.get(text)
        if not isinstance(value, str) or not value.strip():
            raise DataFault(key, f"{place}: the text is empty (column '{text}'); leave such rows out")
        found.append((place, value, row.get(label), place if group is None else str(row.get(group))))
    return found


def _classes(rows: Sequence[tuple[str, str, Any, str]], num_labels: int) -> tuple[str, ...]:
    """What the classes are called, in the order of the head's outputs: numbers by size, names by the alphabet."""
    names = {_class_name(label, place) for place, _, label, _ in rows}
    if len(names) == 1:
        raise DataFault("train", f"every example has the label {shown(next(iter(names)))}; nothing can be learned from one class")
    if all(name.lstrip("-").isdigit() for name in names):
        numbers = sorted(int(name) for name in names)
        if numbers[0] < 0 or numbers[-1] >= num_labels:
            wrong = numbers[0] if numbers[0] < 0 else numbers[-1]
            place = next(place for place, _, label, _ in rows if _class_name(label, place) == str(wrong))
            raise DataFault(
                "train", f"{place}: the label {wrong} is none of the head's {num_labels} (0 to {num_labels - 1}); {_head(wrong + 1)}"
            )
        return tuple(str(number) for number in range(num_labels))
    if len(names) != num_labels:
        listed = ", ".join(sorted(names)[:6]) + (", …" if len(names) > 6 else "")
        raise DataFault("train", f"there are {len(names)} labels ({listed}) and the head has {num_labels}; {_head(len(names))}")
    return tuple(sorted(names))


def _head(labels: int) -> str:
    return f"write task: {{num_labels: {max(labels, 2)}}}, or give other data"


def _class_name(label: Any, place: str) -> str:
    """A label as text: 1, 1.0 and '1' are '1'."""
    if label is None or (isinstance(label, float) and math.isnan(label)) or str(label).strip() == "":
        raise DataFault("train", f"{place}: the label is empty")
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()


def _examples(key: str, rows: Sequence[tuple[str, str, Any, str]], classes: Sequence[str]) -> Examples:
    """The split's examples; a label that train does not have, or that is no number where one is predicted, is a fault."""
    targets = []
    for place, _, label, _ in rows:
        name = _class_name(label, place)
        if classes and name not in classes:
            raise DataFault(key, f"{place}: the label {shown(name)} is none of those in train ({', '.join(classes[:6])})")
        targets.append(float(classes.index(name)) if classes else _number(key, place, name))
    return Examples(tuple(text for _, text, _, _ in rows), tuple(targets), tuple(group for *_, group in rows))


def _number(key: str, place: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataFault(key, f"{place}: the label {shown(text)} is no number, and num_labels: 1 predicts one; for classes write how many")
    return value


def _useful(key: str, examples: Examples, classes: Sequence[str]) -> None:
    """Nothing; a DataFault where a split cannot tell one method from another."""
    if len(examples) < 2:
        raise DataFault(key, f"{len(examples)} examples are too few; there must be at least 2")
    if len(set(examples.targets)) < 2:
        what = f"the label {shown(classes[int(examples.targets[0])])}" if classes else f"the number {examples.targets[0]:g}"
        raise DataFault(key, f"every example of {key} has {what}; it needs at least two different ones")


def set_aside(examples: Examples, share: float, *, seed: int) -> tuple[Examples, Examples]:
    """Train and validation: whole groups, in an order that seed and name alone determine, until the share is reached.

    Of groups a, a, b, b with a share of 0.5, one group goes to validation and one stays.
    """
    names = dict.fromkeys(examples.groups)
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())
    sizes: dict[str, int] = {}
    for name in examples.groups:
        sizes[name] = sizes.get(name, 0) + 1
    held: set[str] = set()
    for name in ordered[:-1]:  # one group at least is trained on
        if sum(sizes[one] for one in held) >= share * len(examples):
            break
        held.add(name)
    sides = [[place for place, name in enumerate(examples.groups) if (name in held) == aside] for aside in (False, True)]
    return examples.take(sides[0]), examples.take(sides[1])
