"""Large models without weights, by transformers alone."""

from typing import Any

import torch


def llama_3_2_3b() -> Any:
    """Llama-3.2-3B: 28 layers, hidden 3072, 24 heads, 8 key-value heads (config.json of meta-llama/Llama-3.2-3B)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
    }
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(vocab_size=128256, head_dim=128, tie_word_embeddings=True, **sizes))


def vit_large() -> Any:
    """ViT-Large/16 (config.json of google/vit-large-patch16-224)."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with torch.device("meta"):
        return ViTForImageClassification(ViTConfig(**{"num_labels": 37, **sizes}))
