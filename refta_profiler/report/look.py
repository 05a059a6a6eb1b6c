"""What a user's style files say: colours by label (YAML), and how matplotlib draws (a matplotlib style file)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from refta_profiler.errors import ScenarioError
from refta_profiler.report.palette import DASHES, MARKERS, Style, style
from refta_profiler.suggest import closest

KEYS = ("colour", "marker", "dash")
EXAMPLE = "write e.g. refta/shared: '#0066ad', or refta/shared: {colour: navy, marker: o, dash: [4, 2]}"


@dataclass(frozen=True)
class Look:
    """Looks by label, and matplotlib settings; `places` says which file named a label."""

    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def styles(self, numbers: Mapping[str, int]) -> dict[str, int | Style]:
        """The style of every name; a ScenarioError where a file names a label that no figure of the run has."""
        for label, path in self.places.items():
            if label not in numbers:
                found = closest(label, numbers)
                hint = f"did you mean {found!r}? " if found else ""
                raise ScenarioError(f"{path}: {label!r} is no label of this run; {hint}(its labels are {', '.join(numbers)})")
        return {name: own_style(number, self.labels[name]) if name in self.labels else number for name, number in numbers.items()}


def own_style(number: int, given: Mapping[str, Any]) -> Style:
    """The style of a number with what is given in its stead."""
    changes = {"light": given.get("colour"), "dark": given.get("colour"), "marker": given.get("marker"), "dash": given.get("dash")}
    return replace(style(number), **{name: value for name, value in changes.items() if value is not None})


def read(paths: Sequence[Path]) -> Look:
    """What the files say, a later one over an earlier one; a ScenarioError names the file, the place and what would be right."""
    look = Look()
    for path in paths:
        if not path.is_file():
            raise ScenarioError(f"--style {path}: no such file; give a matplotlib style file, or a YAML file of colours by label")
        if path.suffix in (".yaml", ".yml"):
            labels = colours(path)
            look = replace(look, labels={**look.labels, **labels}, places={**look.places, **dict.fromkeys(labels, str(path))})
        else:
            look = replace(look, settings={**look.settings, **matplotlib_settings(path)})
    return look


def matplotlib_settings(path: Path) -> dict[str, Any]:
    """The settings of a matplotlib style file; a ScenarioError with matplotlib's complaints where a line of it is wrong."""
    import logging

    import matplotlib

    complaints: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: complaints.append(" ".join(record.getMessage().split()))
    logger = logging.getLogger("matplotlib")
    passed_on, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        settings = matplotlib.rc_params_from_file(path, use_default_template=False)
        found = {str(key): settings[key] for key in settings}
    except (UnicodeDecodeError, OSError) as error:
        raise ScenarioError(f"{path}: cannot be read as a matplotlib style file: {error}") from error
    finally:
        logger.removeHandler(listener)
        logger.propagate = passed_on
    if complaints:
        raise ScenarioError(f"{path}: is not a matplotlib style file: {'; '.join(complaints)}")
    return found


def colours(path: Path) -> dict[str, dict[str, Any]]:
    """The looks by label of a YAML file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ScenarioError(f"{path}: is not a mapping of labels; {EXAMPLE}")
    return {
        str(label): checked(f"{path}: {label}", value if isinstance(value, dict) else {"colour": value}) for label, value in content.items()
    }


def checked(place: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    """The look with its colour as #rrggbb; a ScenarioError says what is wrong with a value."""
    from matplotlib.colors import is_color_like, to_hex

    for key in given:
        if key not in KEYS:
            raise ScenarioError(f"{place}: unknown key {key!r}; there are {', '.join(KEYS)}")
    found: dict[str, Any] = {}
    if "colour" in given:
        colour = given["colour"]
        if not is_color_like(colour):
            raise ScenarioError(f"{place}: {colour!r} is no colour; {EXAMPLE} (in YAML # starts a comment: quote it)")
        found["colour"] = to_hex(colour)
    if (marker := given.get("marker")) is not None:
        if marker not in MARKERS:
            raise ScenarioError(f"{place}: marker {marker!r} is none of {' '.join(MARKERS)}")
        found["marker"] = marker
    if (dash := given.get("dash")) is not None:
        if not (isinstance(dash, list) and len(dash) % 2 == 0 and all(isinstance(one, int | float) and one > 0 for one in dash)):
            raise ScenarioError(f"{place}: dash {dash!r} is not a list of strokes and gaps; write e.g. {list(DASHES[1])}, or [] for a line")
        found["dash"] = tuple(dash)
    return found
