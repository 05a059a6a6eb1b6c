"""A cluster that measures nothing: processes wait until the test lets them end, in whatever order it likes."""

from collections.abc import Callable
from typing import Any

from worker_answers import answer

from refta_profiler.measure.executors import Place


class Fake:
    """Places with that many devices each; `respond` says what a process answers, `pick` which of those that run ends next."""

    name = "fake"

    def __init__(
        self,
        devices: dict[str, int],
        *,
        respond: Callable[[Any, Place], dict[str, Any]] = lambda process, place: answer(),
        pick: Callable[[list], int] = lambda running: 0,
        begun: int = 0,
        refusals: Callable[[Any, Place], str] = lambda point, place: "",
    ) -> None:
        self.devices, self.respond, self.pick, self.refusal = devices, respond, pick, refusals
        self.places = [Place(name) for name in devices]
        self.running: list[tuple[Any, Place]] = []
        self.started: list[tuple[str, int, str]] = []  # label, batch and place, as they started
        self.most = 0
        self.begun = begun  # how many of those handed over are under way; 0: all
        self.closed = False

    def kind(self, wanted):
        return "cpu"

    def open(self, folder, device):
        pass

    def free(self, place):
        return self.devices[place.name] - sum(where == place for _, where in self.running)

    def submit(self, process, place):
        self.running.append((process, place))
        self.started.append((process.point.label, process.point.batch, place.name))
        self.most = max(self.most, len(self.running))

    def ended(self):
        process, place = self.running.pop(self.pick(self.running))
        found = self.respond(process, place)
        where = {"node": "a", "device": f"{place.name}, 1 thread", "place": place.name, "cluster_node": f"{place.name} 1"}
        yield process, place, {"where": where, **found}

    def withdraw(self, unwanted):
        """Of those handed over, `devices` says how many run: the rest had not begun."""
        taken = [one for one in self.running[self.begun :] if unwanted(one[0])] if self.begun else []
        self.running = [one for one in self.running if one not in taken]
        return [process for process, _ in taken]

    def spread(self, call, groups):
        return None

    def describe(self):
        return {"executor": self.name}

    def close(self):
        self.closed = True
