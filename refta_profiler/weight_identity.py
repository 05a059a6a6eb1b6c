"""Which pretrained weights a run uses, in a few words that change where the weights do. No torch, and nothing is fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

from refta_profiler.errors import ScenarioError
from refta_profiler.model_source import WEIGHT_FILES, describe

PATTERNS = ("*.safetensors", "pytorch_model*.bin", *(name for name in WEIGHT_FILES if name.endswith(".json")))
HEAD = 1 << 20  # bytes of a file that are always read: a safetensors file's header is there
CHUNK, CHUNKS = 4096, 256  # and how many more, evenly spaced: any tensor of 0.4% of the file has one in it


def of(model: str) -> str:
    """'sample 1a2b3c4d' of a folder's weight files, 'owner/name at COMMIT' of the hub's; '' where there are none or nothing is known.

    A sample is a hash of the files' names and sizes, of their beginnings and of pieces all over them, so that gigabytes are not read:
    training changes all of a model's numbers. A copied folder has the same.
    """
    source = describe(model).pretrained
    if source is None:
        return ""
    folder = Path(source).expanduser()
    return f"sample {sampled(folder)}" if folder.is_dir() else revision(source)


def sampled(folder: Path) -> str:
    """Eight hex digits of a hash of the weight files, of which pieces are read; ScenarioError where one cannot be."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in PATTERNS for path in folder.glob(pattern)}):
        try:
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(HEAD))
                for number in range(CHUNKS if size > HEAD else 0):
                    file.seek(HEAD + (size - HEAD) * number // CHUNKS)
                    digest.update(file.read(CHUNK))
        except OSError as error:
            raise ScenarioError(f"{path}: the weights cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:8]


def revision(name: str) -> str:
    """'owner/name at COMMIT' of the hub's weights that are in the local cache, from where a run loads them; '' where none are."""
    from huggingface_hub import try_to_load_from_cache

    for file in WEIGHT_FILES:
        path = try_to_load_from_cache(name, file)
        if isinstance(path, str):
            return f"{name} at {Path(path).parent.name}"
    return ""
