"""The YAML of a scenario: read as version 1.2 reads it, with the line of every mistake; written so that any reader reads it alike.

`1e-3` is a number; `yes`, `no`, `on` and `off` are words, and so is a date; a key twice is a mistake. No torch.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from refta_profiler.errors import ScenarioError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core words and numbers, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    twice = f"the key '{key.value}' is there twice, first on line {seen[key.value]}"
                    raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
                seen[key.value] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """What _Loader reads back; nothing is written as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _tag, _pattern, _firsts in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    for _first in _firsts:
        _RESOLVERS.setdefault(_first, []).append((f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$")))
_Loader.yaml_implicit_resolvers = _RESOLVERS
# a word that YAML 1.1 or 1.2 would take for something else is quoted, so that any reader reads a frozen scenario alike
_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _RESOLVERS.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_RESOLVERS}
}


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """A YAML 1.2 whole number: decimal, with no thousands marks."""
    return int(str(loader.construct_scalar(node)))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    """A YAML 1.2 number; infinity and not-a-number are written with a point."""
    return float(re.sub(r"\.(inf|nan)", r"\1", str(loader.construct_scalar(node)).lower()))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse(text: str, where: str) -> Any:
    """The value that a YAML text holds; ScenarioError with the line of a mistake."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ScenarioError(f"{where}: {line}{_plain(error)}") from None
    except yaml.reader.ReaderError as error:
        raise ScenarioError(f"{where}: not a text file: character {error.position} is {error.character!r}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{where}: not YAML: {str(error).splitlines()[0]}") from None
    except (RecursionError, ValueError) as error:  # a text nested thousands deep; a number of thousands of digits
        raise ScenarioError(f"{where}: not a scenario: {str(error).splitlines()[0]}") from None


_SLIPS = ("expected <block end>", "expected ',' or", "mapping values", "could not find expected ':'", "expected the node content")


def _plain(error: yaml.MarkedYAMLError) -> str:
    """What YAML's parser found wrong, in a person's words where they are known."""
    problem = (error.problem or "not YAML").strip()
    if problem.startswith("the key '"):
        return problem
    hint = ""
    if "cannot start any token" in problem and "'\\t'" in problem:
        hint = " (a tab: indent with spaces)"
    elif problem.startswith(_SLIPS):
        hint = " (is a bracket, a quote, a colon or an indentation wrong here or on the line before?)"
    return f"not YAML: {problem}{hint}"


def write(values: Mapping[str, Any]) -> str:
    """The YAML of a scenario's values, which `read` gives back equal."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
