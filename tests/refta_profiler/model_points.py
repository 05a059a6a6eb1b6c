"""What tests of models share: a point of few words, and the linears of a built model."""

from typing import Any

from refta_profiler import models
from refta_profiler.plan import Point

PRESETS = list(models.presets())
TINY = ["vit-tiny", "roberta-tiny", "gpt2-tiny", "llama-tiny"]
KINDS = [(name, kind) for name in PRESETS for kind in models.task_kinds(name)]
ANY: dict[str, Any] = {
    **{"id": "any", "label": "head", "method": "head", "settings": {}, "order": None, "rank": None},
    **{"batch": 2, "seq": 8, "precision": "fp32", "checkpointing": False, "target": "cpu", "targets": []},
    **{"weights": "random", "seed": 0, "optimizer": "adamw", "adapter_dtype": "float32", "attention": "sdpa"},
    **{
        "allocator": "default",
        "accumulate": 1,
        "clip": None,
        "loop": {"keep_outputs": False, "use_cache": False, "attention_mask": False},
        "measure_on_cpu": True,
    },
}


def point(model: str, kind: str | None = None, **changes: Any) -> Point:
    """A point of a model and a task, three labels, two examples of eight tokens; `changes` are fields of it."""
    kind = kind or models.task_kinds(model)[0]
    task = {"kind": kind, "num_labels": None if kind == "causal-lm" else 3, "train_head": kind != "causal-lm"}
    return Point(**{**ANY, "model": model, "task": task, **changes})


def linears(model: Any) -> dict[str, tuple[int, int, bool]]:
    """Every Linear and Conv1D by name: (outputs, inputs, whether it has a bias)."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D"):
            n, d = module.weight.shape if type(module).__name__ == "Linear" else reversed(module.weight.shape)
            found[name] = (n, d, module.bias is not None)
    return found
