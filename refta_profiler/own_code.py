"""A method of the user's own in a scenario: `{name: python, call: "package.module:function", arguments: {…}}`. No torch of its own.

A scenario may be a stranger's, so nothing of its code is imported unless the command line allows it: `load` takes `refuse`, or `look_up`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from refta_profiler import own_sources
from refta_profiler.errors import OwnCodeError, in_a_line
from refta_profiler.scenario_messages import Fault, Place, shown
from refta_profiler.suggest import closest

NAME = "python"
KEYS = ("call", "arguments", "label", "name")
OPTION = "--allow-code"
EXAMPLE = 'call: "package.module:function"'
_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

Look = Callable[[Place, Mapping[str, Any]], list[Fault]]  # what is wrong with the code that an entry names


def is_own(entry: Any) -> bool:
    """Whether an entry of a scenario's methods is the user's own."""
    return isinstance(entry, Mapping) and entry.get("name") == NAME


def modules(entries: Iterable[Any]) -> list[str]:
    """The modules that a scenario's methods call functions of."""
    return list(dict.fromkeys(entry["call"].partition(":")[0] for entry in entries if is_own(entry)))


def form_faults(place: Place, entry: Mapping[Any, Any]) -> Iterator[Fault]:
    """What is wrong with the form of an entry's call and arguments, before any code is looked at."""
    call, arguments = entry.get("call"), entry.get("arguments", {})
    if "call" not in entry:
        yield Fault(place, f"'call' is missing; e.g. {EXAMPLE}")
    elif not isinstance(call, str) or not _FORM.fullmatch(call):
        meant = ":".join(str(call).rsplit(".", 1))
        hint = f"did you mean '{meant}'?" if _FORM.fullmatch(meant) else f"write {EXAMPLE}"
        yield Fault((*place, "call"), f"{shown(call)} names no function; {hint}")
    if not isinstance(arguments, Mapping):
        yield Fault((*place, "arguments"), f"{shown(arguments)} is not a mapping; write e.g. arguments: {{rank: 4}}")
        return
    for key in arguments:
        if not isinstance(key, str) or not key.isidentifier():
            yield Fault((*place, "arguments"), f"the key {shown(key)} cannot name an argument of a function")


def settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an entry of right form: its call, and its arguments by name (their order does not count)."""
    return {"call": entry["call"], "arguments": dict(sorted(entry.get("arguments", {}).items()))}


def named(own: Mapping[str, Any]) -> dict[str, Any]:
    """Such settings by the names that labels show: the arguments', and `call`."""
    return {**own["arguments"], "call": own["call"]}


def default_label(own: Mapping[str, Any]) -> str:
    """`python/function`."""
    return f"{NAME}/{own['call'].partition(':')[2]}"


# ---- what may be done with an entry's code when a scenario is loaded


def permission(allowed: bool) -> Look:
    """What `load` is to do about code of the user's own, by whether the command line allows it."""
    return look_up if allowed else refuse


def refuse(place: Place, entry: Mapping[str, Any]) -> list[Fault]:
    """That code of one's own has to be allowed; nothing is imported."""
    return [Fault((*place, "call"), f"runs code of your own; add {OPTION} to allow it")] if "call" in entry else []


def look_up(place: Place, entry: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the function that an entry names, and with the arguments for it; its module is imported."""
    if list(form_faults(place, entry)):
        return []
    own = settings(entry)
    try:
        found = function(own["call"])
    except OwnCodeError as error:
        return [Fault((*place, "call"), str(error))]
    wrong = _wrong_arguments(found, own)
    return [Fault((*place, "arguments"), wrong)] if wrong else []


def _wrong_arguments(found: Callable[..., Any], own: Mapping[str, Any]) -> str:
    """Why the function cannot be called with the model and these arguments; '' where it can."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # what is not written in Python may not say what it takes
        return ""
    try:
        signature.bind(None, **own["arguments"])
        return ""
    except TypeError as error:
        known = list(signature.parameters)
        unknown = next((key for key in own["arguments"] if key not in known), None)
        near = closest(unknown, known[1:]) if unknown else None
        hint = f"did you mean '{near}'? " if near else ""
        return f"{own['call']} cannot be called so: {error}; {hint}it is {own['call'].partition(':')[2]}{signature}"


def function(call: str) -> Callable[..., Any]:
    """The function that 'package.module:function' names, its module imported; OwnCodeError where there is none."""
    module_name, _, name = call.partition(":")
    module = _module(module_name)
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module_name]
        near = closest(name, names)
        hint = f"did you mean '{near}'? " if near else ""
        raise OwnCodeError(f"{module_name} has no '{name}'; {hint}its functions are {', '.join(names) or 'none'} ({_file(module)})")
    if not callable(found):
        raise OwnCodeError(f"'{name}' of {module_name} is of type {type(found).__name__}, not a function ({_file(module)})")
    return found


def _module(name: str) -> ModuleType:
    """The module, imported, also from the current folder; what it prints goes to standard error."""
    here = os.getcwd()
    if not {here, ""} & set(sys.path):
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported is told as its fault
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise OwnCodeError(_not_there(error.name)) from None
        raise OwnCodeError(f"{name} cannot be imported: {told(error, f'{name}:')}") from error


def _not_there(name: str) -> str:
    """That a module is not there, where it was looked for, and which one may be meant."""
    above, _, last = name.rpartition(".")
    package = sys.modules.get(above)
    if above and not hasattr(package, "__path__"):
        return f"there is no module '{name}': {above} is a file, not a package"
    places = list(package.__path__) if package else [os.getcwd()]
    near = closest(last, [found.name for found in pkgutil.iter_modules(places)])
    hint = f"; did you mean '{f'{above}.{near}' if above else near}'?" if near else ""
    where = places[0] if package else f"{places[0]} (the current folder), nor where else Python looks"
    return f"there is no module '{name}' in {where}{hint}"


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")


# ---- what became of it


def fingerprint(own: Mapping[str, Any]) -> str:
    """A hash of the sources of the code that settings name (own_sources.py)."""
    return own_sources.fingerprint(own["call"].partition(":")[0])


def refuse_changed(own: Mapping[str, Any]) -> None:
    """Nothing; OwnCodeError where the code is not the one that the point was planned with, whose id would then not be its own."""
    if own.get("sources") not in (None, fingerprint(own)):
        raise OwnCodeError(f"the code of {own['call']} was changed while the run went on; resume the run, and its points are done anew")


def told(error: BaseException, call: str | None = None) -> str:
    """An error in one line, with its place: in the code of `call` where some of it was running, otherwise where it was raised."""
    said = in_a_line(error)
    place = "" if isinstance(error, SyntaxError) else place_of(error, call)
    return f"{said} ({place})" if place else said


def place_of(error: BaseException, call: str | None = None) -> str:
    """'file:line' of the innermost frame in the package of `call`, of the innermost of all where that has none; '' of one never raised."""
    frames = list(traceback.walk_tb(error.__traceback__))
    package = (call or "").partition(":")[0].partition(".")[0]
    own = [one for one in frames if str(one[0].f_globals.get("__name__")).partition(".")[0] == package]
    return next((f"{frame.f_code.co_filename}:{line}" for frame, line in reversed(own or frames)), "")
