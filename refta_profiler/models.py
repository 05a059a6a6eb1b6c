"""What a scenario's model is: its shapes as data (no torch), and a point's model and batch (torch inside the functions that build).

A model is named by a preset of models.yaml, a folder with a config.json, or a hub name; hub code is never trusted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from refta_profiler.errors import ScenarioError, first_line
from refta_profiler.model_families import CAUSAL, IMAGES, ROLES, SEQUENCES, LayerGroup
from refta_profiler.model_shapes import (
    fed_size,
    fingerprint,
    head_size,
    layers,
    longest_sequence,
    roles,
    select,
    task_kinds,
    tokens_per_sequence,
)
from refta_profiler.model_source import Description, describe, presets

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from refta_profiler.plan import Point

__all__ = [  # what is known of a model, whichever file says it
    "IMAGES",
    "ROLES",
    "SEQUENCES",
    "Description",
    "LayerGroup",
    "batch",
    "build",
    "build_on_meta",
    "config",
    "describe",
    "fingerprint",
    "head_size",
    "layers",
    "longest_sequence",
    "made_from",
    "presets",
    "roles",
    "select",
    "task_kinds",
    "tokens_per_sequence",
    "without_packing",
]

AUTO_CLASSES = {
    IMAGES: "AutoModelForImageClassification",
    SEQUENCES: "AutoModelForSequenceClassification",
    CAUSAL: "AutoModelForCausalLM",
}
WEIGHT_DTYPES = {"fp32": "float32", "amp-bf16": "float32", "bf16": "bfloat16"}


def config(name: str) -> "PreTrainedConfig":
    """The transformers config of a model; ScenarioError where the library refuses it."""
    from transformers import AutoConfig

    description = describe(name)
    settings = {key: value for key, value in description.settings.items() if key != "auto_map"}
    try:
        return AutoConfig.for_model(description.model_type, **settings)
    except Exception as error:  # the library validates with errors of its own and of its hub client
        raise ScenarioError(f"model '{name}': transformers refuses its config: {first_line(error)}") from None


def build(point: "Point", device: "torch.device | str") -> "PreTrainedModel":
    """The model of a point on a device, in training mode and in its precision's dtype.

    Random weights are drawn on the CPU under the point's seed, so that they are the same whatever the device.
    """
    import torch

    if torch.device(device).type == "meta":
        return build_on_meta(point)
    torch.manual_seed(point.seed)
    model = _pretrained(point) if point.weights == "pretrained" else _from_config(point)
    return _ready(model, point).to(torch.device(device))  # pyright: ignore[reportArgumentType]


def made_from(point: "Point") -> tuple:
    """All that `build` reads of a point but for the device: points that are alike in it have the same model."""
    task = point.task["kind"], point.task.get("num_labels")
    return (
        point.model,
        point.weights,
        point.seed,
        WEIGHT_DTYPES[point.precision],
        *task,
        point.attention,
        point.loop["use_cache"],
        point.loop.get("transformers"),
    )


def build_on_meta(point: "Point") -> "PreTrainedModel":
    """The model of a point on the meta device: shapes, dtypes and tied weights, no numbers (non-persistent buffers are meta too)."""
    import torch

    with torch.device("meta"):
        model = _from_config(point)
    model.tie_weights()
    return _ready(model, point)


def _ready(model: "PreTrainedModel", point: "Point") -> "PreTrainedModel":
    """The model in training mode; one whose class name does not tell its loss is told (GPT2LMHeadModel, which would warn)."""
    if point.task["kind"] == CAUSAL and getattr(model, "loss_type", None) is None:
        model.loss_type = "ForCausalLM"
    if point.loop.get("transformers"):
        from refta_profiler import older

        older.restore(model)
    return model.train()


def batch(point: "Point", device: "torch.device | str") -> "dict[str, torch.Tensor]":
    """One batch of made-up examples with labels, the same for every method and order of a seed: it seeds torch's generator.

    Images are in the weights' dtype. A causal model's labels are its input. A mask is passed where the loop asks for one and there are
    examples to pad: transformers drops one that hides nothing, but on fake tensors, which have no numbers, it cannot tell.
    """
    import torch

    torch.manual_seed(point.seed)
    settings = _point_config(point)
    if point.task["kind"] == IMAGES:
        height, width = fed_size(point.model, settings.image_size)
        dtype = getattr(torch, WEIGHT_DTYPES[point.precision])
        pixels = torch.randn(point.batch, settings.num_channels, height, width, device=device, dtype=dtype)
        return {"pixel_values": pixels, "labels": _labels(point, device)}
    text = settings.get_text_config()
    first, last = _plain_tokens(text.vocab_size, text.pad_token_id)
    tokens = torch.randint(first, last, (point.batch, point.seq or 1), device=device)
    if point.task["kind"] == SEQUENCES and settings.is_encoder_decoder:
        tokens = _ended(tokens, text.eos_token_id, first)
    return {"input_ids": tokens, **_mask(point, tokens), "labels": tokens if point.task["kind"] == CAUSAL else _labels(point, device)}


@contextmanager
def without_packing() -> Iterator[None]:
    """Causal models take every row for one example, as it is here, and do not look at the numbers to find out.

    Left to itself, transformers (masking_utils.find_packed_sequence_indices) compares position numbers. Fake tensors have none, so a dry
    run would take the rows for packed ones and make a mask of batch × tokens × tokens instead of using the causal kernel: a real run
    does not.
    """
    from transformers import masking_utils

    name = "find_packed_sequence_indices"
    found = getattr(masking_utils, name, None)
    if found is None:  # another version of transformers, which does not look
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, found)


def _mask(point: "Point", tokens: "torch.Tensor") -> "dict[str, torch.Tensor]":
    """The attention mask in the form that the point's loop asks for; nothing where it asks for none or one example has no padding."""
    form = point.loop["attention_mask"]
    if not form or point.batch == 1:
        return {}
    padding = _padding(tokens)
    return {"attention_mask": _additive(padding, WEIGHT_DTYPES[point.precision]) if form == "additive" else padding}


def _additive(padding: "torch.Tensor", dtype: str) -> "torch.Tensor":
    """The mask (batch, 1, tokens, tokens) that is added to attention's scores: 0, and -inf for padding.

    transformers 5 passes a mask of four dimensions on as it is (masking_utils._preprocess_mask_arguments), one tensor to every layer.
    transformers 4.49 to 4.55 made such a one for encoders (modeling_attn_mask_utils, _prepare_4d_attention_mask_for_sdpa).
    It hides no later tokens, so that a decoder's memory and time are right, but not its loss.
    """
    import torch

    batch, tokens = padding.shape
    added = torch.zeros((batch, 1, tokens, tokens), dtype=getattr(torch, dtype), device=padding.device)
    return added.masked_fill_(padding[:, None, None, :] == 0, float("-inf"))


def _padding(tokens: "torch.Tensor") -> "torch.Tensor":
    """An attention mask (batch, tokens) of a padded batch: every example but the first ends one token early."""
    import torch

    mask = torch.ones_like(tokens)
    mask[1:, -1] = 0
    return mask


def _ended(tokens: "torch.Tensor", ends: int | list[int] | None, first: int) -> "torch.Tensor":
    """The tokens with the <eos> token at the end of every row and nowhere else: encoder-decoders classify by its state (BART, T5)."""
    import torch

    end = ends[0] if isinstance(ends, list) else ends
    if end is None:
        return tokens
    ended = torch.where(tokens == end, first + (first == end), tokens)
    ended[:, -1] = end
    return ended


def _labels(point: "Point", device: "torch.device | str") -> "torch.Tensor":
    """A class per example, or a number per example where there is one label (regression, as in STS-B)."""
    import torch

    if point.task["num_labels"] == 1:
        return torch.randn(point.batch, device=device, dtype=getattr(torch, WEIGHT_DTYPES[point.precision]))
    return torch.randint(0, point.task["num_labels"], (point.batch,), device=device)


def _plain_tokens(vocabulary: int, padding: int | None) -> tuple[int, int]:
    """First token and end of the longer run of tokens without the padding token, which would shorten examples.

    RoBERTa (50,265 tokens, padding 1): 2 to 50,265; GPT-2 padded by its last token: 0 to 50,256.
    """
    if padding is None or not 0 <= padding < vocabulary:
        return 0, vocabulary
    return (0, padding) if padding > vocabulary // 2 else (padding + 1, vocabulary)


def _point_config(point: "Point") -> "PreTrainedConfig":
    """The model's config set up for training on the point's task."""
    settings = config(point.model)
    settings.architectures = []  # which head a checkpoint was saved with; the point's task decides
    settings.use_cache = point.loop["use_cache"]
    if (labels := point.task.get("num_labels")) is not None:
        settings.num_labels = labels
        settings.problem_type = "regression" if labels == 1 else "single_label_classification"
    text = settings.get_text_config()
    if point.task["kind"] == SEQUENCES and text.pad_token_id is None:
        ends = text.eos_token_id
        text.pad_token_id = ends[0] if isinstance(ends, list) else ends
    return settings


def _from_config(point: "Point") -> "PreTrainedModel":
    """The point's model with weights as the library initialises them."""
    import torch
    import transformers

    factory = getattr(transformers, AUTO_CLASSES[point.task["kind"]])
    dtype = getattr(torch, WEIGHT_DTYPES[point.precision])
    try:
        return factory.from_config(_point_config(point), attn_implementation=point.attention, dtype=dtype, trust_remote_code=False)
    except (ImportError, ValueError) as error:
        raise ScenarioError(f"model '{point.model}' cannot be built for {point.task['kind']}: {first_line(error)}") from None


def _pretrained(point: "Point") -> "PreTrainedModel":
    """The point's model with the weights of its folder or hub name; only a head may be missing there (it is drawn)."""
    import torch
    import transformers
    from safetensors import SafetensorError

    factory = getattr(transformers, AUTO_CLASSES[point.task["kind"]])
    dtype = getattr(torch, WEIGHT_DTYPES[point.precision])
    source = describe(point.model).pretrained
    try:
        model, found = factory.from_pretrained(
            source,
            config=_point_config(point),
            attn_implementation=point.attention,
            dtype=dtype,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        raise ScenarioError(f"model '{point.model}': the weights of '{source}' cannot be loaded: {first_line(error)}") from None
    absent = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if inside := sorted(key for key in absent if any(part.isdigit() for part in key.split("."))):
        raise ScenarioError(f"model '{point.model}': the weights of '{source}' lack {len(inside)} of its layers', e.g. {inside[0]}")
    return model
