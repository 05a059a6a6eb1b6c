"""What travels to nodes that share no files with the driver: both packages, and the sources of the scenario's own code. No torch."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from refta_profiler import own_sources

PACKAGES = ("refta", "refta_profiler")
ROOT = Path(__file__).parents[2]  # where both packages lie
MODEL_FILES = "*.json"  # of a model's folder: what it is, not its weights


def own_files(modules: Sequence[str]) -> dict[Path, Path]:
    """The source files of the modules, by the path that each has under the folder that its outermost package lies in.

    What pip installed is left out: a node has it installed itself, and its sources' hash tells where it is another one.
    """
    found: dict[Path, Path] = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        first = Path(spec.origin)
        root = first.parents[module.count(".") + (first.name == "__init__.py")]
        if root.name not in own_sources.INSTALLED:
            found |= {path.relative_to(root): path for path in own_sources.files(module)}
    return found


def model_files(model: str) -> dict[Path, Path]:
    """The JSON files of a model's folder that is given by a path below the current folder; none of any other model."""
    folder = Path(model)
    if not model or folder.is_absolute() or ".." in folder.parts or not (folder / "config.json").is_file():
        return {}
    return {path: path for path in sorted(folder.glob(MODEL_FILES))}


def stage(modules: Sequence[str], model: str, folder: Path) -> None:
    """Put into the folder, in which a node then works, both packages, own code and a model's description.

    A measuring process takes modules from the folder it works in before all others, as it does on the driver's machine.
    """
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for inside, path in {**model_files(model), **own_files(modules)}.items():
        place = folder / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
