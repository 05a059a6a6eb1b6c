"""Settings that may be written as a mapping where a plain value stands in the end: quantised weights, lengths of texts. No torch."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refta_profiler.scenario_messages import Fault, shown
from refta_profiler.suggest import closest

QUANTISED = ("nf4", "fp4", "int8")
QUANTISED_PREFIX = "quantised-"
LENGTHS = ("lengths", "file")
COLUMN = "length"


def expand(values: Mapping[Any, Any], folder: Path) -> tuple[dict[Any, Any], list[Fault]]:
    """The values with each shorthand replaced by what it means, and what is wrong with one; a wrong one is left out."""
    found, faults = dict(values), []
    if isinstance(values.get("weights"), Mapping):
        kind = values["weights"].get("quantised")
        if set(values["weights"]) == {"quantised"} and kind in QUANTISED:
            found["weights"] = f"{QUANTISED_PREFIX}{kind}"
        else:
            del found["weights"]
            faults.append(Fault(("weights",), _weights_fault(values["weights"])))
    if isinstance(values.get("seq"), Mapping):
        lengths = _lengths(values["seq"], folder)
        if isinstance(lengths, Fault):
            del found["seq"]
            faults.append(lengths)
        else:
            found["seq"] = lengths
            loop = values.get("loop", {})
            found["loop"] = {"attention_mask": True, **loop} if isinstance(loop, Mapping) else loop
    return found, faults


def _weights_fault(given: Mapping[Any, Any]) -> str:
    wanted = f"write random, pretrained, or {{quantised: {'|'.join(QUANTISED)}}}"
    unknown = [key for key in given if key != "quantised"]
    if unknown:
        return f"unknown key {shown(unknown[0])}; {wanted}"
    near = closest(str(given.get("quantised")), QUANTISED)
    return f"unknown kind {shown(given.get('quantised'))}; {f'did you mean {near!r}? ' if near else ''}{wanted}"


def _lengths(given: Mapping[Any, Any], folder: Path) -> list[int] | Fault:
    """The lengths to predict for, ascending: those given, or the median, the 95th percentile and the largest of a file's."""
    if len(given) != 1 or next(iter(given)) not in LENGTHS:
        return Fault(("seq",), f"{shown(dict(given))}; write {{lengths: [64, 128]}}, or {{file: lengths.txt}} with a length a line")
    ((key, value),) = given.items()
    if key == "lengths":
        wrong = (
            [one for one in value if isinstance(one, bool) or not isinstance(one, int) or one < 1] if isinstance(value, list) else [value]
        )
        if wrong or not value:
            return Fault(("seq", "lengths"), f"{shown(wrong[0] if wrong else value)}; write whole numbers of tokens, e.g. [64, 128, 512]")
        return sorted(set(value))
    try:
        lengths = sorted(_read(folder / str(value)))
    except OSError as error:
        return Fault(("seq", "file"), f"{shown(value)} cannot be read: {error.strerror or error}")
    except ValueError as error:
        return Fault(("seq", "file"), f"{shown(value)}: {error}")
    return sorted({_percentile(lengths, 50), _percentile(lengths, 95), lengths[-1]})


def _read(path: Path) -> list[int]:
    """A whole number a line, or the column `length` of a CSV file; ValueError says which line is none."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    place = rows[0].index(COLUMN) if rows and COLUMN in rows[0] else 0
    start = 1 if rows and COLUMN in rows[0] else 0
    found = []
    for number, row in enumerate(rows[start:], start=start + 1):
        if not row:
            continue
        text = row[place].strip() if place < len(row) else ""
        if not text.isdigit() or int(text) < 1:
            raise ValueError(f"line {number}: {shown(text)} is not a number of tokens; write one a line, or a CSV with a column '{COLUMN}'")
        found.append(int(text))
    if not found:
        raise ValueError("holds no lengths")
    return found


def _percentile(ordered: list[int], percent: int) -> int:
    """By nearest rank: the 50th percentile of 10, 20, 30 is 20."""
    return ordered[-(-len(ordered) * percent // 100) - 1]
