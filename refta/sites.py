"""Which linears of a model are adapted: roles → modules, grouped into stacks of equal shape."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from refta.bypassed import is_bypassed
from refta.errors import SettingError
from refta.shapes import INPUT_PLACES, StackShape

ROLES = ("query", "key", "value", "qkv", "output", "gate", "up", "down")  # in the order of a layer's forward

# Last parts of a module's path, by role; the first rule that fits wins. Names as in transformers 5 (and 4): ViT, DeiT, DINOv2, BEiT,
# Swin, BERT, RoBERTa, DeBERTa, ELECTRA, ALBERT, DistilBERT, T5, BART, OPT, GPT-2, GPT-J, GPT-NeoX, Falcon, BLOOM, MPT, Llama, Mistral,
# Qwen, Gemma, Phi, ModernBERT, CLIP, SigLIP, Wav2Vec2.
_ATTENTION = r"(attention|attn|self_attn|self_attention|encoder_attn|cross_?attention|cross_attn|SelfAttention|EncDecAttention|mixer)"
_RULES = tuple(
    (role, re.compile(rf"(^|\.){pattern}$"))
    for role, pattern in (
        ("query", r"(q_proj|query|query_proj|q_lin|to_q|wq|SelfAttention\.q|EncDecAttention\.q)"),
        ("key", r"(k_proj|key|key_proj|k_lin|to_k|wk|SelfAttention\.k|EncDecAttention\.k)"),
        ("value", r"(v_proj|value|value_proj|v_lin|to_v|wv|SelfAttention\.v|EncDecAttention\.v)"),
        ("qkv", r"(c_attn|qkv|qkv_proj|query_key_value|Wqkv|in_proj)"),
        ("output", r"(o_proj|out_proj|out_lin|(cross_?)?attention\.output\.dense|SelfAttention\.o|EncDecAttention\.o|attn\.Wo)"),
        ("output", rf"{_ATTENTION}\.(dense|c_proj|proj|wo)"),
        ("gate", r"(gate_proj|wi_0|w1)"),
        ("down", r"(down_proj|fc2|fc_out|lin2|mlp\.c_proj|mlp\.Wo|dense_4h_to_h|DenseReluDense\.wo)"),
        ("down", r"(output\.dense|output_dense|ffn_output|w2)"),
        ("up", r"(up_proj|gate_up_proj|fc1|fc_in|lin1|c_fc|Wi|dense_h_to_4h|DenseReluDense\.wi|wi_1)"),
        ("up", r"(intermediate\.dense|intermediate_dense|ffn|w3)"),
    )
)
_CROSS_ATTENTION = re.compile(r"encoder_attn|EncDecAttention|cross_?attention|cross_attn")
_NAMES_TAKEN = {*dir(nn.ModuleDict()), "head"}  # what holds the stacks at the model's root has these of its own; files have a head
_LAYER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")  # a layer's number as a whole part of a path
_LAYER_SUFFIX = re.compile(r"(?<=_)\d+(?=\.)")  # at the end of one, as torchvision has it: encoder_layer_3


@dataclass(frozen=True)
class Site:
    """A linear that can be adapted: its module, path, and shape n × d (Conv1D's transposed weight already turned)."""

    path: str
    role: str
    module: nn.Module
    rows: int
    columns: int
    bias: bool

    @property
    def template(self) -> str:
        """The path with layer numbers replaced by `*`: sites of one template stand at the same place of different layers.

        A number at the end of a name is a layer's only where no part is a whole number, and only the first one:
        `layers.0.attention_2.query` is the second attention of layer 0, and stands in another place than the first.
        """
        starred = _LAYER.sub("*", self.path)
        return starred if starred != self.path else _LAYER_SUFFIX.sub("*", self.path, count=1)


@dataclass
class Stack:
    """Sites of one role and shape, by layer, to be adapted together."""

    name: str
    role: str
    sites: list[Site] = field(default_factory=list)
    inputs_without_gradient: int = 0

    def shape(self, slice_ranks: Sequence[int] | None = None) -> StackShape:
        """The stack's shape as data."""
        first = self.sites[0]
        ranks = tuple(slice_ranks) if slice_ranks is not None else None
        free, reads = self.inputs_without_gradient, tuple(_input(site) for site in self.sites)
        return StackShape(self.name, self.role, len(self.sites), first.rows, first.columns, first.bias, free, ranks, reads=reads)


def stack_tensors(stack: Stack) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The stack's weights (K, n, d) and biases (K, n) or None, as new tensors."""
    parts = [dict(site.module.named_parameters()) for site in stack.sites]
    weights = [
        one["weight"].detach().T if is_conv1d(site.module) else one["weight"].detach() for one, site in zip(parts, stack.sites, strict=True)
    ]
    biases = torch.stack([one["bias"].detach() for one in parts]) if stack.sites[0].bias else None
    return torch.stack(weights), biases


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, a linear with its weight d × n (GPT-2)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def all_sites(model: nn.Module) -> list[Site]:
    """Every linear of the model that stands in a numbered layer, with its role ('' where no rule names it)."""
    found = []
    for path, module in model.named_modules():
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and re.search(r"\.\d+\.", f".{path}."):
            rows, columns = _shape(module)
            found.append(Site(path, _role(path), module, rows, columns, getattr(module, "bias", None) is not None))
    return found


def _shape(module: nn.Module) -> tuple[int, int]:
    """n and d of a linear; of a quantised one, whose weight is packed into another shape, by its own account."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    if not weight.is_floating_point():
        return module.out_features, module.in_features  # type: ignore[return-value]
    rows, columns = weight.shape if not is_conv1d(module) else weight.shape[::-1]
    return rows, columns


def _role(path: str) -> str:
    return next((role for role, rule in _RULES if rule.search(path)), "")


def find_stacks(model: nn.Module, targets: Sequence[str]) -> list[Stack]:
    """The stacks that the targets name, in forward order; a target is a role or the end of a module's path.

    Layers of unequal shape, or of unlike place (encoder and decoder), form stacks of their own.
    Raises SettingError for a target that no linear answers to (it names the roles the model has), and for a linear that is never called.
    """
    if isinstance(targets, str) or not targets:
        raise SettingError(f"targets: {targets!r}; it must be a list of roles ({', '.join(ROLES)}) or of module names")
    sites = all_sites(model)
    stacks: list[Stack] = []
    for target in dict.fromkeys(targets):
        stacks += _stacks_of(target, _matching(target, sites, model))
    _refuse_double(stacks)
    _refuse_bypassed(model, stacks)
    _rename_alike(stacks)
    order = {site.path: place for place, site in enumerate(sites)}
    stacks.sort(key=lambda stack: (_forward_place(stack.role), order.get(stack.sites[0].path, 0)))
    _mark_first_inputs(stacks)
    return stacks


def _forward_place(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _matching(target: str, sites: list[Site], model: nn.Module) -> list[Site]:
    found = [site for site in sites if site.role == target] if target in ROLES else []
    found = found or [site for site in sites if site.path == target or site.path.endswith("." + target)]
    if found:
        return found
    roles = [role for role in ROLES if any(site.role == role for site in sites)]
    suffixes = sorted({site.path.rsplit(".", 1)[-1] for site in sites})
    near = difflib.get_close_matches(target, [*roles, *suffixes], n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise SettingError(
        f"targets: {type(model).__name__} has no '{target}'; {hint}"
        f"its roles are {', '.join(roles) or 'none'}, its linears {', '.join(suffixes) or 'none'}"
    )


def _stacks_of(target: str, sites: list[Site]) -> list[Stack]:
    groups: dict[tuple, list[Site]] = {}
    for site in sites:
        groups.setdefault((site.template, site.rows, site.columns, site.bias, site.module.weight.dtype), []).append(site)
    name = target.replace(".", "_")
    name = f"{name}_" if name in _NAMES_TAKEN else name
    many = len(groups) > 1
    return [Stack(f"{name}_{i}" if many else name, group[0].role or target, group) for i, group in enumerate(groups.values())]


def _refuse_double(stacks: list[Stack]) -> None:
    seen: dict[str, str] = {}
    for stack in stacks:
        for site in stack.sites:
            if site.path in seen:
                raise SettingError(f"targets: '{stack.name}' and '{seen[site.path]}' both name {site.path}; a linear is adapted once")
            seen[site.path] = stack.name


def _rename_alike(stacks: list[Stack]) -> None:
    """Names that differ: targets such as `a.b` and `a_b` give the same."""
    taken: set[str] = set()
    for stack in stacks:
        while stack.name in taken:
            stack.name += "_"
        taken.add(stack.name)


def _refuse_bypassed(model: nn.Module, stacks: list[Stack]) -> None:
    for path in (site.path for stack in stacks for site in stack.sites):
        parent, _, name = path.rpartition(".")
        owner = model.get_submodule(parent)
        if is_bypassed(owner, name):
            there = f"targets: {path}: {type(owner).__name__} computes with its weight and does not call it"
            raise SettingError(f"{there}, so an adapter there does nothing; leave it out (linears can be named by the ends of their paths)")


def _mark_first_inputs(stacks: list[Stack]) -> None:
    """Say which stacks' first layers read an input that no adapter stands before: those of the earliest place of a tower's earliest layer.

    Frozen embeddings are assumed. A decoder beside an adapted encoder reads what the encoder gives from its cross-attention on.
    """
    places = [_place(stack.sites[0]) for stack in stacks]
    towers = {tower for tower, _, _ in places}
    for stack, (tower, layer, part) in zip(stacks, places, strict=True):
        earliest = min((one[1], one[2]) for one in places if one[0] == tower)
        fed = part > (0, 0) and "decoder" in tower and tower.replace("decoder", "encoder") in towers
        stack.inputs_without_gradient = int((layer, part) == earliest and not fed)


def _place(site: Site) -> tuple[str, int, tuple[int, int]]:
    """The tower (what the layers are a list of), the layer's number, and the part of the layer; parts of one number read the same input.

    Self-attention comes first, then cross-attention, then the MLP.
    """
    match = _LAYER.search(site.path) or _LAYER_SUFFIX.search(site.path)
    tower, layer = (site.path[: match.start()].rstrip("._"), int(match.group())) if match else ("", 0)
    place = INPUT_PLACES.get(site.role, 0)
    block = 2 if place >= INPUT_PLACES["up"] else int(bool(_CROSS_ATTENTION.search(site.path)))
    return tower, layer, (block, place)


def _input(site: Site) -> tuple[str | int, ...]:
    """A name for what the site reads, the same for all that read the same x: its innermost numbered layer, and the part of that.

    Keys and values of cross-attention read what the encoder gives, one x for all layers of a decoder; a linear without a role its own.
    """
    tower, _, part = _place(site)
    if site.role in ("key", "value") and _CROSS_ATTENTION.search(site.path):
        return tower, "encoder"
    layer = re.match(r"(?:.*\.)?\d+(?=\.)", site.path)
    return (layer.group(), *part) if layer and site.role else (site.path,)


def head_size(model: nn.Module) -> int | None:
    """The width of one attention head, from the model's config where it says so."""
    config = getattr(model, "config", None)
    text_config = getattr(config, "get_text_config", None)
    config = text_config() if text_config is not None else config
    given = getattr(config, "head_dim", None)
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    if isinstance(given, int):
        return given
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None
