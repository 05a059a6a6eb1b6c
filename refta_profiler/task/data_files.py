"""The rows of a split as its file, folder or data set holds them, each with where it stands. No torch.

A file is CSV (.csv, .tsv), JSON lines (.jsonl, .json) or Parquet; a folder holds a folder of images a class.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from refta_profiler.errors import ScenarioError
from refta_profiler.suggest import closest
from refta_profiler.task.settings import Data

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FORMATS = "a .csv, .tsv, .jsonl, .json or .parquet file, or a folder of images by class"
Rows = Sequence[tuple[str, Mapping[str, Any]]]  # where each row stands, and what it holds


class DataFault(ScenarioError):
    """What is wrong with the data, and under which of its keys."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def is_folder(data: Data, key: str) -> bool:
    """Whether the split is a folder of images."""
    return data.name is None and Path(getattr(data, key)).is_dir()


def rows(data: Data, key: str) -> Rows:
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
