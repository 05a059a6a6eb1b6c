"""What a scenario says of its task: the data, how every method is trained on it, and which residuals are looked at. No torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from refta_profiler.settings import STRICT, Count, Counts, listed


def by_method(value: Any) -> Any:
    """A mapping for rates that hold for all: [1e-4, 1e-3] is {default: [1e-4, 1e-3]}."""
    return value if value is None or isinstance(value, dict) else {"default": value}


Rate = Annotated[float, Field(gt=0)]  # a whole number is one too
Rates = Annotated[list[Rate], Field(min_length=1), BeforeValidator(listed)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1), BeforeValidator(listed)]
LearningRates = Annotated[dict[str, Rates], Field(min_length=1), BeforeValidator(by_method)]
Transforms = Annotated[list[Literal["dct", "dft_real", "lsm", "identity"]], Field(min_length=1), BeforeValidator(listed)]


class Data(BaseModel):
    """Files of examples (CSV, JSON lines, Parquet), folders of images by class, or splits of a data set that the datasets library knows."""

    model_config = STRICT

    train: Annotated[str, Field(min_length=1)]
    """The file, folder or split to train on."""
    test: Annotated[str, Field(min_length=1)]
    """The one to test on; nothing is chosen by it."""
    validation: str | None = None
    """The one that learning rates are chosen on; by default a part of train is set aside."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """How much of train is set aside where there is no validation."""
    name: str | None = None
    """Of a data set of the datasets library; train and test are then its splits."""
    text: str = "text"
    """The column of the text."""
    label: str = "label"
    """The column of the label."""
    group: str | None = None
    """A column: rows that share it stand on one side of the validation split."""


class Train(BaseModel):
    """How every method is trained. The learning rate is chosen on the validation split, for each method by itself."""

    model_config = STRICT

    steps: Count | None = None
    """Optimizer steps; give steps or epochs."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training examples; 3 where neither is given."""
    lr: LearningRates = {"default": [1e-4, 3e-4, 1e-3, 3e-3]}
    """The learning rates that are tried: a list for all, or by label or method (`default` for the rest)."""
    seeds: Seeds = [0, 1, 2]
    """A training each, at the chosen rate."""
    lr_seeds: Count = 1
    """How many of the seeds, the first ones, the learning rate is chosen on."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after its warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """The share of the steps in which the learning rate grows from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's."""
    to_loss: Rate | None = None
    """The training loss to which steps and seconds are counted."""


class Residuals(BaseModel):
    """What is asked of the pretrained weights themselves: captured energy and quantisation error by transform and rank."""

    model_config = STRICT

    ranks: Counts = [2, 8, 48]
    """How many principal components are taken off."""
    transforms: Transforms = ["dct", "lsm", "dft_real", "identity"]
    """Under which transforms."""
