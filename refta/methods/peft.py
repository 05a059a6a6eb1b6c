"""Any method of the peft library by its type and configuration; it has no network here, so no closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from refta.errors import SettingError
from refta.shapes import StackShape

SUMMARY = "any type of the peft library: {name: peft, type: LOHA, config: {r: 8}}"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """`type` as peft names it (LORA, LOHA, LOKR, VERA, …); `config` goes to that type's configuration as it is."""

    type: str = "LORA"
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or not isinstance(self.config, dict):
            raise SettingError("type must be a peft type such as LORA, config a mapping of its settings")
        if "target_modules" in self.config:
            raise SettingError("config: target_modules is set by the scenario's targets; leave it out")


def network(settings: Settings, shape: StackShape) -> None:
    """None: the library's methods have no closed form here."""


def attach(model, stacks, settings: Settings, run):
    """The library's adapter on every site."""
    from refta.library import attach_library

    return attach_library(model, stacks, settings.type.upper(), settings.config, run)
