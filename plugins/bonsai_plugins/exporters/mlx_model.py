"""Models of mlx-lm whose decoder layers differ in width, built from mlx-lm's own classes.

mlx-lm runs this file, which the key ``model_file`` of a checkpoint's config.json names, with the option
``--trust-remote-code``. It imports mlx and mlx-lm only. Under ``bonsai``, config.json has

    head_dim: size of a head
    layers: for every layer its numbers of query heads (``heads``), of KV heads (``groups``) and of MLP channels
        (``width``; left out where the stock model's number stays), 0 where the attention or the MLP is gone
    added_biases: names, in a layer, of the linears that have a bias and have none in the stock model

All other fields are those of the stock model.
"""

import importlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import MODEL_REMAPPING

HEADS = ("n_heads", "num_heads")
GROUPS = ("n_kv_heads", "num_key_value_heads")


class EmptyAttention(nn.Module):  # type: ignore[misc]  # mlx is not typed here
    """Stands in for an attention that lost all its heads: adds nothing, or a bias.

    It writes zeros to its cache, because the number of past tokens is read there.
    """

    def __init__(self, hidden: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        self.head_dim = head_dim
        if bias:
            self.bias = mx.zeros((hidden,))

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        if cache is not None:
            entry = mx.zeros((x.shape[0], 1, x.shape[1], self.head_dim), x.dtype)
            cache.update_and_fetch(entry, entry)
        return _constant(self, x)


class EmptyMLP(nn.Module):  # type: ignore[misc]
    """Stands in for an MLP that lost all its channels: adds nothing, or a bias."""

    def __init__(self, hidden: int, bias: bool) -> None:
        super().__init__()
        if bias:
            self.bias = mx.zeros((hidden,))

    def __call__(self, x: Any) -> Any:
        return _constant(self, x)


class ModelArgs:
    """mlx-lm makes the arguments of a model from config.json with this name."""

    @staticmethod
    def from_dict(config: dict[str, Any]) -> Any:
        """The stock model's arguments, with those of this file as `bonsai`."""
        args = _stock(config["model_type"]).ModelArgs.from_dict(config)
        args.bonsai = config["bonsai"]
        return args


def Model(args: Any) -> Any:  # mlx-lm calls it by this name
    """The stock model with smaller layers."""
    model = _stock(args.model_type).Model(args)
    for layer, sizes in zip(model.layers, args.bonsai["layers"], strict=True):
        _shrink_attention(layer, sizes["heads"], sizes["groups"], args)
        if "width" in sizes:
            _shrink_mlp(layer, sizes["width"], args)
    return model


def _stock(model_type: str) -> Any:
    return importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}")


def _shrink_attention(layer: Any, heads: int, groups: int, args: Any) -> None:
    """Give a layer its numbers of query and KV heads."""
    attention, size = layer.self_attn, args.bonsai["head_dim"]
    rows = {"q_proj": heads, "k_proj": groups, "v_proj": groups, "qkv_proj": heads + 2 * groups}
    biases = {name: _has_bias(layer, "self_attn", name, args) for name in [*rows, "o_proj"]}
    if not heads:
        layer.self_attn = EmptyAttention(args.hidden_size, size, biases["o_proj"])
        return
    for name, number in rows.items():
        if name in attention:
            attention[name] = nn.Linear(args.hidden_size, number * size, bias=biases[name])
    attention.o_proj = nn.Linear(heads * size, args.hidden_size, bias=biases["o_proj"])
    numbers = {**dict.fromkeys(HEADS, heads), **dict.fromkeys(GROUPS, groups), "repeats": heads // groups}
    for name, number in numbers.items():
        if hasattr(attention, name):
            setattr(attention, name, number)


def _shrink_mlp(layer: Any, width: int, args: Any) -> None:
    """Give a layer its number of MLP channels."""
    rows = {"gate_proj": width, "up_proj": width, "gate_up_proj": 2 * width}
    biases = {name: _has_bias(layer, "mlp", name, args) for name in [*rows, "down_proj"]}
    if not width:
        layer.mlp = EmptyMLP(args.hidden_size, biases["down_proj"])
        return
    for name, number in rows.items():
        if name in layer.mlp:
            layer.mlp[name] = nn.Linear(args.hidden_size, number, bias=biases[name])
    layer.mlp.down_proj = nn.Linear(width, args.hidden_size, bias=biases["down_proj"])


def _has_bias(layer: Any, module: str, name: str, args: Any) -> bool:
    linear = layer[module].get(name)
    added = f"{module}.{name}" in args.bonsai["added_biases"]
    return added or (linear is not None and "bias" in linear)


def _constant(module: Any, x: Any) -> Any:
    zeros = mx.zeros_like(x)
    return zeros + module.bias if "bias" in module else zeros
