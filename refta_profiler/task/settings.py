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
    test: Annotated[str, Field(min_length=1)]
    validation: str | None = None  # by default a part of train is set aside
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    name: str | None = None  # of a data set of the datasets library; train and test are then its splits
    text: str = "text"  # the columns of text and label
    label: str = "label"
    group: str | None = None  # a column: rows that share it stand on one side of the validation split


class Train(BaseModel):
    """How every method is trained. The learning rate is chosen on the validation split, for each method by itself."""

    model_config = STRICT

    steps: Count | None = None  # one of steps and epochs, by default 3 epochs
    epochs: Annotated[float, Field(gt=0)] | None = None
    lr: LearningRates = {"default": [1e-4, 3e-4, 1e-3, 3e-3]}  # a list for all, or by label or method (`default` for the rest)
    seeds: Seeds = [0, 1, 2]
    lr_seeds: Count = 1  # how many of the seeds, the first ones, the learning rate is chosen on
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06  # the share of the steps in which the learning rate grows from 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    to_loss: Rate | None = None  # the training loss to which steps and seconds are counted


class Residuals(BaseModel):
    """What is asked of the pretrained weights themselves: captured energy and quantisation error by transform and rank."""

    model_config = STRICT

    ranks: Counts = [2, 8, 48]
    transforms: Transforms = ["dct", "lsm", "dft_real", "identity"]
