"""The source files that a module of the user's own is made of, found without running any of them. No torch."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

NEVER = ("refta", "refta_profiler")  # ours: no other method's results depend on their text either
INSTALLED = ("site-packages", "dist-packages")  # where pip puts packages of many people side by side


def fingerprint(module: str) -> str:
    """Sixteen hex digits of a hash of the module's source files: other digits where one of them changed."""
    digest = hashlib.sha256()
    for path in files(module):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def files(module: str) -> list[Path]:
    """The module's file, and those of the modules beside it (or below) that it imports, directly or not; none where it has no source.

    Imports are read off the text, also those within functions. What is not under the folder that the module's outermost package lies in is
    not the user's own, e.g. torch. Of an installed package it is every file.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    first = Path(spec.origin)
    depth = module.count(".") + (first.name == "__init__.py")
    root = first.parents[depth]
    if root.name in INSTALLED:
        return sorted((root / module.partition(".")[0]).rglob("*.py")) or [first]
    found, waiting = {first}, [first]
    while waiting:
        path = waiting.pop()
        for parts in _imported(path, path.relative_to(root).parent.parts):
            new = set() if parts[:1] in [(name,) for name in NEVER] else _files_of(root, parts) - found
            found |= new
            waiting += new
    return sorted(found)


def _files_of(root: Path, parts: tuple[str, ...]) -> set[Path]:
    """The files under the folder that importing the module a.b.c runs: those of a, a.b and a.b.c that are there."""
    heads = [root.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
    return {path for head in heads for path in (head.with_name(f"{head.name}.py"), head / "__init__.py") if path.is_file()}


def _imported(path: Path, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The modules that a file in that package may import, as parts; `from a import b` may mean a.b. None where it is not Python."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError):  # a module beside it that is broken: importing it says so
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (tuple(one.name.split(".")) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*module, one.name) for one in node.names)
