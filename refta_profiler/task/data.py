"""A task's examples, read and checked as a whole before anything is built; what is wrong is named with its file and line. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refta_profiler.scenario_messages import shown
from refta_profiler.suggest import closest
from refta_profiler.task.data_files import DataFault, Rows, is_folder, rows
from refta_profiler.task.settings import Data

SPLITS = ("train", "validation", "test")


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
        inputs, groups = (tuple(column[place] for place in places) for column in (self.inputs, self.groups))
        return Examples(inputs, tuple(self.targets[place] for place in places), groups)


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


def read(data: Data, num_labels: int, *, seed: int = 0) -> Splits:
    """The three splits; DataFault where a file, a column, a text or a label is not as it must be.

    num_labels: classes of the head, or 1 where a number is predicted. seed: of the validation split that is set aside from train.
    """
    found = {key: rows(data, key) for key in SPLITS if isinstance(getattr(data, key), str)}
    images = all(is_folder(data, key) for key in found)
    if not images and any(is_folder(data, key) for key in found):
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
        more = "; write a larger validation_share, or a file of its own" if key == "validation" else ""
        raise DataFault(key, f"every example of {key} has {what}; it needs at least two different ones{more}")


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
