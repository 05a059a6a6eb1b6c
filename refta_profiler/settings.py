"""What the settings of a scenario have in common. No torch."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

# no key that is not known, no value of another type; what a setting is for stands under it
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def listed(value: Any) -> Any:
    """A list of one for a single value: `batch: 8` is `batch: [8]`."""
    return value if value is None or isinstance(value, list | dict) else [value]


Count = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], Field(min_length=1), BeforeValidator(listed)]
