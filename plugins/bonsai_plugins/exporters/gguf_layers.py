"""Layers that differ in width, as llama.cpp's architectures with sizes for every layer want them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bonsai_core import Checkpoint
from bonsai_plugins.exporters.gguf_architectures import Architecture
from bonsai_plugins.exporters.weights import Weights

NARROWEST = 32
"""Channels of zeros where an architecture cannot do without an MLP."""
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn": "attn_output",  # the bias that an emptied attention leaves
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp": "ffn_down",
}
FUSED = ("attn_q", "attn_k", "attn_v")

HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
"""Keys of what is the size of a head; left out, llama.cpp would take hidden size / heads of the first layer."""


@dataclass(frozen=True)
class Layer:
    """The sizes of a layer as it is written: with padding, and with zeros where something must be.

    Attributes:
        heads, groups: query heads and KV groups.
        width: channels of the MLP.
    """

    heads: int
    groups: int
    width: int


def written_layers(checkpoint: Checkpoint, architecture: Architecture, weights: Weights, pad_to: int) -> list[Layer]:
    """The sizes of all layers as they are written.

    Args:
        pad_to: numbers of channels are multiples of this.
    """
    per_group = checkpoint.config.num_attention_heads // checkpoint.config.num_key_value_heads
    narrowest = max(pad_to, NARROWEST)
    layers = []
    for number, sizes in enumerate(checkpoint.layers):
        heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        width = -(-sizes["intermediate_size"] // pad_to) * pad_to
        alone = number == len(checkpoint.layers) - 1 and width == 0
        needed = architecture.whole or number == 0 or alone or f"{_prefix(number)}self_attn.bias" in weights.files
        if groups == 0 and needed:
            heads, groups = per_group, 1
        if width == 0 and (architecture.whole or groups > 0 or f"{_prefix(number)}mlp.bias" in weights.files):
            width = narrowest
        layers.append(Layer(heads, groups, width))
    return layers


def arrays_of(layers: Sequence[Layer]) -> dict[str, list[int]]:
    """What the file says about the layers, by key without the architecture's name."""
    return {
        "attention.head_count": [layer.heads for layer in layers],
        "attention.head_count_kv": [layer.groups for layer in layers],
        "feed_forward_length": [layer.width for layer in layers],
    }


def layer_tensors(
    number: int, layer: Layer, config: Any, architecture: Architecture, weights: Weights, read: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    """The tensors of a layer by their names in the file.

    Args:
        read: gives a tensor of the checkpoint by its name, or one of the same shape on the meta device.
    """
    prefix = _prefix(number)
    found: dict[str, Tensor] = {}
    for name in weights.files:
        if name.startswith(prefix):
            module, _, kind = name.removeprefix(prefix).rpartition(".")
            found[f"{NAMES[module]}.{kind}"] = read(name)
    found = _filled(found, layer, config, architecture)
    for name, there in (("attn_norm.weight", layer.groups), ("ffn_norm.weight", layer.width)):
        if not there:
            del found[name]
    found = {name: _widened(name, tensor, layer.width) for name, tensor in found.items()}
    if architecture.pairs:
        found |= {name: _in_pairs(tensor, config.head_dim) for name, tensor in found.items() if _is_rotated(name)}
    if architecture.fused:
        found["attn_qkv.weight"] = torch.cat([found.pop(f"{name}.weight") for name in FUSED])
    return {f"blk.{number}.{name}": tensor for name, tensor in found.items()}


def _prefix(number: int) -> str:
    return f"model.layers.{number}."


def _filled(found: Mapping[str, Tensor], layer: Layer, config: Any, architecture: Architecture) -> dict[str, Tensor]:
    """Zeros for the sub-layers that were emptied and are needed: their outputs are zero."""
    queries, keys = layer.heads * config.head_dim, layer.groups * config.head_dim
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    if layer.groups and "attn_q.weight" not in found:
        shapes |= {"attn_q.weight": (queries, hidden), "attn_output.weight": (hidden, queries)}
        shapes |= dict.fromkeys(("attn_k.weight", "attn_v.weight"), (keys, hidden))
        if architecture.fused:
            shapes |= dict.fromkeys(("attn_q_norm.weight", "attn_k_norm.weight"), (config.head_dim,))
    if layer.width and "ffn_up.weight" not in found:
        shapes |= dict.fromkeys(("ffn_gate.weight", "ffn_up.weight"), (layer.width, hidden))
        shapes["ffn_down.weight"] = (hidden, layer.width)
    like = next(iter(found.values()))
    return {**found, **{name: like.new_zeros(shape) for name, shape in shapes.items()}}


def _widened(name: str, tensor: Tensor, width: int) -> Tensor:
    """An MLP's tensor with channels of zeros up to a width."""
    dim = 1 if name == "ffn_down.weight" else 0
    if not name.startswith(("ffn_gate", "ffn_up", "ffn_down.weight")):
        return tensor
    return padded(tensor, dim, width)


def padded(tensor: Tensor, dim: int, size: int) -> Tensor:
    """A tensor with zeros at the end of a dimension, up to a size."""
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _is_rotated(name: str) -> bool:
    return name.split(".")[0] in ("attn_q", "attn_k")


def _in_pairs(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows of queries or keys with the two channels that turn together beside each other, as in llama.cpp's LLaMA."""
    heads = tensor.shape[0] // head_dim
    return tensor.reshape(heads, 2, head_dim // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
