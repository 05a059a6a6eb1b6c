"""Shapes of a model's layers by family, from its settings as data: no torch, since importing a transformers config loads it.

A family is one `model_type` of the transformers library; module names are those of transformers 5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]

ROLES = ("query", "key", "value", "qkv", "output", "gate", "up", "down")  # in the order of a forward
IMAGES, SEQUENCES, CAUSAL = "image-classification", "sequence-classification", "causal-lm"


@dataclass(frozen=True)
class LayerGroup:
    """The linears of one role that share a shape: `layers` matrices of n × d (outputs × inputs), of layer `first` and those after it."""

    role: str
    layers: int
    n: int
    d: int
    bias: bool
    template: str  # module name with {} for the layer's number, e.g. "vit.layers.{}.attention.q_proj"
    first: int = 0

    @property
    def numbers(self) -> range:
        """The numbers of the layers."""
        return range(self.first, self.first + self.layers)

    @property
    def names(self) -> list[str]:
        """The module names, first layer first."""
        return [self.template.format(layer) for layer in self.numbers]

    @property
    def largest_rank(self) -> int:
        """K·min(n, d+1) with a bias, K·min(n, d) without: 24 layers of 1024 × 1024 with bias have 24·1024 = 24,576."""
        return self.layers * min(self.n, self.d + self.bias)


@dataclass(frozen=True)
class Linear:
    """One linear of a layer, by its path inside the layer."""

    role: str
    path: str
    n: int
    d: int
    bias: bool


@dataclass(frozen=True)
class Family:
    """What is known of one model_type; `defaults` are the transformers library's, for settings that a config.json leaves out."""

    tasks: tuple[str, ...]  # the first is the default
    layer: str  # module name of a layer with {} for its number
    linears: Callable[[Settings], list[Linear]]
    defaults: Settings
    layers_key: str = "num_hidden_layers"
    special_tokens: int = 0  # images: tokens beside the patches
    interpolates: bool = False  # images: any size is taken, positions are interpolated
    aliases: Settings = field(default_factory=dict)  # other spellings of a setting → the one used here
    positions: Callable[[Settings], int] = lambda settings: settings["max_position_embeddings"]

    def complete(self, settings: Settings) -> dict[str, Any]:
        """The settings with the library's defaults for those left out."""
        return {**self.defaults, **{self.aliases.get(key, key): value for key, value in settings.items()}}

    def groups(self, settings: Settings) -> list[LayerGroup] | None:
        """The layers' linears in the order of a forward; None where cross-attention adds linears that are not described here."""
        settings = self.complete(settings)
        if settings.get("add_cross_attention"):
            return None
        linears = sorted(self.linears(settings), key=lambda linear: ROLES.index(linear.role))
        count = settings[self.layers_key]
        return [LayerGroup(x.role, count, x.n, x.d, x.bias, f"{self.layer}.{x.path}") for x in linears]


def _vision_linears(settings: Settings) -> list[Linear]:
    """ViT, DeiT and DINOv2: biases on query, key and value by `qkv_bias`, elsewhere always."""
    width, qkv_bias = settings["hidden_size"], settings["qkv_bias"]
    heads = settings["num_attention_heads"]
    inside = heads * (settings.get("head_dim") or width // heads)
    attention = [
        Linear("query", "attention.q_proj", inside, width, qkv_bias),
        Linear("key", "attention.k_proj", inside, width, qkv_bias),
        Linear("value", "attention.v_proj", inside, width, qkv_bias),
        Linear("output", "attention.o_proj", width, inside, True),
    ]
    return attention + _vision_mlp(settings)


def _vision_mlp(settings: Settings) -> list[Linear]:
    """Two linears, or three for DINOv2's SwiGLU, whose inner width is 2/3 of the ratio's, rounded up to a multiple of 8."""
    width = settings["hidden_size"]
    inner = settings["intermediate_size"] if "intermediate_size" in settings else int(width * settings["mlp_ratio"])
    if not settings.get("use_swiglu_ffn"):
        return [Linear("up", "mlp.fc1", inner, width, True), Linear("down", "mlp.fc2", width, inner, True)]
    inner = (int(inner * 2 / 3) + 7) // 8 * 8
    gated = [Linear(role, f"mlp.{role}_proj", inner, width, True) for role in ("gate", "up")]
    return [*gated, Linear("down", "mlp.down_proj", width, inner, True)]


def _bert_linears(settings: Settings) -> list[Linear]:
    """BERT and RoBERTa: every linear is square but the MLP's, and has a bias."""
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    attention = [Linear(role, f"attention.self.{role}", width, width, True) for role in ("query", "key", "value")]
    return [
        *attention,
        Linear("output", "attention.output.dense", width, width, True),
        Linear("up", "intermediate.dense", inner, width, True),
        Linear("down", "output.dense", width, inner, True),
    ]


def _gpt2_linears(settings: Settings) -> list[Linear]:
    """GPT-2: one fused projection for query, key and value (a Conv1D, whose weight is stored d × n)."""
    width = settings["n_embd"]
    inner = settings["n_inner"] or 4 * width
    return [
        Linear("qkv", "attn.c_attn", 3 * width, width, True),
        Linear("output", "attn.c_proj", width, width, True),
        Linear("up", "mlp.c_fc", inner, width, True),
        Linear("down", "mlp.c_proj", width, inner, True),
    ]


def _llama_linears(settings: Settings) -> list[Linear]:
    """Llama, Mistral and Qwen2: grouped-query attention (narrower key and value) and a gated MLP."""
    width, inner, heads = settings["hidden_size"], settings["intermediate_size"], settings["num_attention_heads"]
    head_width = settings.get("head_dim") or width // heads
    queries, keys = heads * head_width, (settings["num_key_value_heads"] or heads) * head_width
    qkv_bias, output_bias, mlp_bias = settings["qkv_bias"], settings["attention_bias"], settings["mlp_bias"]
    return [
        Linear("query", "self_attn.q_proj", queries, width, qkv_bias),
        Linear("key", "self_attn.k_proj", keys, width, qkv_bias),
        Linear("value", "self_attn.v_proj", keys, width, qkv_bias),
        Linear("output", "self_attn.o_proj", width, queries, output_bias),
        Linear("gate", "mlp.gate_proj", inner, width, mlp_bias),
        Linear("up", "mlp.up_proj", inner, width, mlp_bias),
        Linear("down", "mlp.down_proj", width, inner, mlp_bias),
    ]


def _llama_biased(settings: Settings) -> list[Linear]:
    """Llama proper, where `attention_bias` is for all four projections."""
    return _llama_linears({**settings, "qkv_bias": settings["attention_bias"]})


_WIDTHS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_VISION = {**_WIDTHS, "image_size": 224, "patch_size": 16, "num_channels": 3, "qkv_bias": True}
_TEXT = {**_WIDTHS, "intermediate_size": 3072, "max_position_embeddings": 512}
_LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None}
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

FAMILIES: dict[str, Family] = {
    "vit": Family((IMAGES,), "vit.layers.{}", _vision_linears, {**_VISION, "intermediate_size": 3072}, special_tokens=1),
    "deit": Family((IMAGES,), "deit.layers.{}", _vision_linears, {**_VISION, "intermediate_size": 3072}, special_tokens=2),
    "dinov2": Family(
        (IMAGES,),
        "dinov2.encoder.layer.{}",
        _vision_linears,
        {**_VISION, "patch_size": 14, "mlp_ratio": 4, "use_swiglu_ffn": False},
        special_tokens=1,
        interpolates=True,
    ),
    "bert": Family((SEQUENCES,), "bert.encoder.layer.{}", _bert_linears, {**_TEXT, "pad_token_id": 0}),
    "roberta": Family(
        (SEQUENCES,),
        "roberta.encoder.layer.{}",
        _bert_linears,
        {**_TEXT, "pad_token_id": 1},
        # position numbers start after the padding's: 514 embeddings hold 512 tokens
        positions=lambda settings: settings["max_position_embeddings"] - settings["pad_token_id"] - 1,
    ),
    "gpt2": Family(
        (CAUSAL, SEQUENCES),
        "transformer.h.{}",
        _gpt2_linears,
        {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None, "n_positions": 1024},
        layers_key="n_layer",
        aliases=_GPT2_NAMES,
        positions=lambda settings: settings["n_positions"],
    ),
    "llama": Family(
        (CAUSAL, SEQUENCES),
        "model.layers.{}",
        _llama_biased,
        {**_LLAMA, "intermediate_size": 11008, "max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
    ),
    "mistral": Family(
        (CAUSAL, SEQUENCES),
        "model.layers.{}",
        lambda settings: _llama_linears({**settings, "qkv_bias": False, "attention_bias": False, "mlp_bias": False}),
        {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    ),
    "qwen2": Family(
        (CAUSAL, SEQUENCES),
        "model.layers.{}",
        lambda settings: _llama_linears({**settings, "qkv_bias": True, "attention_bias": False, "mlp_bias": False}),
        {**_LLAMA, "intermediate_size": 22016, "num_key_value_heads": 32, "max_position_embeddings": 32768},
    ),
}
