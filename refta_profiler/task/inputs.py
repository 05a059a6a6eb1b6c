"""Examples as a model reads them: texts as tokens padded to their batch's longest, images as pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import torch

from refta_profiler import models
from refta_profiler.errors import ScenarioError, first_line
from refta_profiler.model_shapes import fed_size
from refta_profiler.task.data import Examples

MIDDLE = 0.5  # of ViT's preprocessing: pixels from 0 to 1 become −1 to 1


@dataclass(frozen=True)
class Encoded:
    """One split: token numbers of every text, or pixels (3, height, width) of every image, and the targets."""

    tokens: list[list[int]]
    pixels: list[torch.Tensor]
    targets: tuple[float, ...]
    padding: int = 0

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of every text; images are all alike."""
        return [len(one) for one in self.tokens] or [1] * len(self.pixels)

    def take(self, places: list[int]) -> Encoded:
        """The examples at those places."""
        tokens, pixels = [self.tokens[place] for place in places if self.tokens], [self.pixels[place] for place in places if self.pixels]
        return Encoded(tokens, pixels, tuple(self.targets[place] for place in places), self.padding)

    def batch(self, places: list[int], device: torch.device, *, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What the model is called with: texts padded on the right, with a mask."""
        labels = torch.tensor([self.targets[place] for place in places]).to(dtype)
        if self.pixels:
            found = {"pixel_values": torch.stack([self.pixels[place] for place in places])}
        else:
            chosen = [self.tokens[place] for place in places]
            longest = max(len(one) for one in chosen)
            padded = [one + [self.padding] * (longest - len(one)) for one in chosen]
            mask = [[1] * len(one) + [0] * (longest - len(one)) for one in chosen]
            found = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
        return {name: one.to(device) for name, one in {**found, "labels": labels}.items()}


@dataclass(frozen=True)
class Encoder:
    """How the examples of one model are encoded."""

    tokenizer: Any
    most: int | None  # tokens of a text
    pixels: tuple[int, int] | None  # height and width of an image

    @classmethod
    def of(cls, model: str, tokens: int | None, *, images: bool) -> Encoder:
        """The encoder of a model's folder or hub name; ScenarioError where it has no tokenizer."""
        if images:
            return cls(None, None, fed_size(model, models.config(model).image_size))
        from transformers import AutoTokenizer

        description = models.describe(model)
        source = description.pretrained or model
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # the library raises errors of its own, of its hub client and of the tokenizers library
            reason = first_line(error)
            raise ScenarioError(f"model '{model}': has no tokenizer that can be loaded ({reason}); texts cannot be read") from None
        return cls(tokenizer, tokens, None)

    def encode(self, examples: Examples) -> Encoded:
        """The split as the model reads it, texts cut after `most` tokens."""
        if self.pixels:
            return Encoded([], [image(Path(path), self.pixels) for path in examples.inputs], examples.targets)
        tokens = self.tokenizer(list(examples.inputs), truncation=True, max_length=self.most)["input_ids"]
        padding = self.tokenizer.pad_token_id
        return Encoded(tokens, [], examples.targets, padding if padding is not None else self.tokenizer.eos_token_id or 0)


def image(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """The image as (3, height, width), from −1 to 1."""
    from PIL import Image

    with Image.open(path) as opened:
        pixels = numpy.asarray(opened.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=numpy.float32) / 255
    return torch.from_numpy((pixels - MIDDLE) / MIDDLE).permute(2, 0, 1).contiguous()
