"""The errors that refta raises on purpose.

ReftaError
└── SettingError          a setting, a role or a shape that cannot be (also a ValueError)
"""


class ReftaError(Exception):
    """What refta raises on purpose; its text says where, what, and what would be right."""


class SettingError(ReftaError, ValueError):
    """A setting, a role, a shape or a file that does not fit."""
