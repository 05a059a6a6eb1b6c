"""GPT-2's training step (SDPA, no padding) as transformers 4.46 makes it, for measurements of others: `loop: {transformers: "4.46"}`.

What its memory has that today's has not, after transformers 4.46.3, models/gpt2/modeling_gpt2.py (4.43 to 4.47 peak alike; 4.48 copies
queries, keys and values, 4.49 shifts the labels in place of the logits):

- GPT2Attention.__init__: a causal mask of booleans and one number per layer, as buffers (1 MiB at 1,024 positions).
- GPT2SdpaAttention.forward: the cache holds keys and values as c_attn made them, views of its output; since 4.56 `torch.cat` copies them.
- GPT2LMHeadModel.forward: the loss is that of a copy of the logits without the last token's. With the outputs of the step before still
  alive (`keep_outputs: next`), it is this copy that makes the forward's end the peak of a step.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED = -1e4  # what 4.46 adds to masked scores; held and, with SDPA, not used


def restore(model: PreTrainedModel) -> None:
    """Give a GPT-2 for language modelling what 4.46 has; a scenario asks it of no other model."""
    model.loss_function = _loss
    transformer: Any = model.transformer
    for block in transformer.h:
        _add_buffers(block.attn, model.config.max_position_embeddings)
    names = inspect.signature(type(transformer).forward).parameters
    cache = "cache" if "cache" in names else "past_key_values"  # renamed in 5.24
    transformer.register_forward_pre_hook(_views_in(cache), with_kwargs=True)


def _add_buffers(attention: Any, positions: int) -> None:
    """The buffers of an attention, where its weights are."""
    device = attention.c_attn.weight.device
    mask = torch.ones((positions, positions), dtype=torch.bool, device=device).tril().view(1, 1, positions, positions)
    attention.register_buffer("bias", mask, persistent=False)
    attention.register_buffer("masked_bias", torch.tensor(MASKED, device=device), persistent=False)


def _loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **_: Any) -> torch.Tensor:
    """Mean cross-entropy of the logits (batch, tokens, vocabulary) for the labels (batch, tokens) one token later."""
    shifted = logits[..., :-1, :].contiguous()
    following = labels[..., 1:].contiguous()
    return F.cross_entropy(shifted.view(-1, vocab_size), following.view(-1))


def _views_in(name: str) -> Any:
    """A hook that gives a forward whose config asks for a cache one that copies nothing, as the argument of that name."""

    def hook(transformer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if transformer.config.use_cache and kwargs.get(name) is None:
            kwargs = {**kwargs, name: _cache(transformer.config)}
        return args, kwargs

    return hook


def _cache(settings: Any) -> Any:
    """An empty cache whose layers hold the keys and values that they are given, uncopied."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    class Views(DynamicLayer):
        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            return key_states, value_states

    cache = DynamicCache(config=settings)
    layers: Any = cache.layers
    layers[:] = [Views() for _ in range(settings.num_hidden_layers)]
    return cache
