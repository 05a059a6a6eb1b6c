"""Where a scenario's `model` is described: a preset of models.yaml, a folder with a config.json, or a name of the transformers hub.

No torch and no transformers: the description is data. Hub code is never run; of a hub name one small file is read, from the local
cache where it is there.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from refta_profiler.errors import ScenarioError, first_line
from refta_profiler.suggest import closest

DATA = Path(__file__).with_name("models.yaml")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Description:
    """A model's architecture as data; `settings` are its config's, without the library's defaults."""

    name: str
    origin: str  # "preset", "folder" or "hub"
    model_type: str
    settings: Mapping[str, Any]
    pretrained: str | None  # what from_pretrained takes; None: there are no weights
    input_size: int | None  # images: pixels a side, where that is not the config's image_size
    source: str


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The entries of models.yaml by name."""
    return yaml.safe_load(DATA.read_text(encoding="utf-8"))


def describe(name: str) -> Description:
    """The description of a preset, a folder or a hub name, in that order; ScenarioError where there is none."""
    if name in presets():
        return _preset(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder(name, folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ScenarioError(f"there is no folder '{name}'; give a preset, a folder with a config.json, or a hub name (owner/name)")
    if "/" in name:
        return _hub(name)
    found = closest(name, presets())
    hint = f"did you mean '{found}'? " if found else ""
    others = "or a folder with a config.json, or a hub name written owner/name"
    raise ScenarioError(f"unknown model '{name}'; {hint}(presets: {', '.join(presets())}; {others})")


def _preset(name: str) -> Description:
    """The description of an entry of models.yaml."""
    entry = presets()[name]
    return Description(name, "preset", entry["model_type"], entry["config"], entry["hub"], entry.get("input_size"), entry["source"])


def _folder(name: str, folder: Path) -> Description:
    """The description of a folder with a config.json; weights where the folder holds some."""
    path = folder / "config.json"
    if not path.is_file():
        raise ScenarioError(f"the folder '{name}' has no config.json; give a folder that save_pretrained wrote, or a preset")
    weights = str(folder) if any((folder / file).is_file() for file in WEIGHT_FILES) else None
    return _from_config(name, "folder", path, weights, _fed_pixels(folder / "preprocessor_config.json"))


def _hub(name: str) -> Description:
    """The description of a hub name, from its config.json alone."""
    path = _hub_file(name, "config.json")
    if path is None:
        raise ScenarioError(f"the hub has '{name}', but it holds no config.json, so it is not a transformers model")
    try:
        processor = _hub_file(name, "preprocessor_config.json")
    except ScenarioError:  # text models have none, and a cached config.json without a connection is enough for the rest
        processor = None
    return _from_config(name, "hub", path, name, _fed_pixels(processor) if processor else None)


def _from_config(name: str, origin: str, path: Path, pretrained: str | None, input_size: int | None) -> Description:
    """The description that a config.json gives."""
    settings = _read_json(path)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ScenarioError(f"{path}: there is no model_type; a config.json of the transformers library names its architecture")
    return Description(name, origin, model_type, settings, pretrained, input_size, str(path))


def _read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; ScenarioError where it is none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ScenarioError(f"{path}: holds a {type(settings).__name__}, not a mapping of settings")
    return settings


def _fed_pixels(path: Path) -> int | None:
    """Pixels a side that an image processor hands to the model (its crop, else its resize); None where it does not say."""
    if not path.is_file():
        return None
    settings = _read_json(path)
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    size = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
    return size if isinstance(size, int) else None


def _hub_file(name: str, file: str) -> Path | None:
    """One file of a hub repository, from the local cache where it is there; None where the repository has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, local_files_only=True))
    except HFValidationError as error:
        raise ScenarioError(f"'{name}' is neither a folder nor a hub name ({error})") from None
    except LocalEntryNotFoundError:
        pass
    if not reachable():
        raise ScenarioError(unreachable(name, "no connection to the hub"))
    try:
        with _quiet():
            return Path(hf_hub_download(name, file, etag_timeout=10))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:  # the hub's client raises errors of three libraries; all of them mean the same here
        raise ScenarioError(unreachable(name, _reason(error))) from None


def unreachable(name: str, reason: str) -> str:
    """What to say of a hub name that cannot be had."""
    found = closest(name.split("/")[-1], presets())
    hint = f" (did you mean the preset '{found}'?)" if found else ""
    return (
        f"the hub name '{name}' cannot be reached: {reason}, and it is not in the local cache{hint}; "
        "give a preset, a folder with a config.json, or fetch it once with `hf download " + name + "`"
    )


def reachable() -> bool:
    """Whether a connection to the hub opens: the hub's own client would try six times, half a minute in all."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(proxy) for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the client knows how to go through a proxy
    hub = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _reason(error: Exception) -> str:
    """The first line of what the hub's client says, with what it means for the usual two."""
    kinds = {type(error).__name__ for error in (error, error.__cause__) if error is not None}
    if "GatedRepoError" in kinds:
        return "its owner wants you to accept a licence first (and then `hf auth login`)"
    if "RepositoryNotFoundError" in kinds:
        return "the hub knows no such model (or it is private)"
    return first_line(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """The hub client's own warnings silenced: one message is what a person gets."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
