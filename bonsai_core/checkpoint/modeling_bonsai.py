"""Causal language models whose decoder layers differ in width, built from transformers' own classes.

This file imports torch and transformers only. Bonsai uses it as it is, and a copy of it, with the classes of one model
family made at its end, lies in every checkpoint of the shapes `free`, so that transformers loads such a checkpoint
where Bonsai is not installed (`trust_remote_code=True`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

FILE_NAME = "modeling_bonsai.py"
FAMILY_MARK = "# The model family of this checkpoint."
# What a layer must take from the model's configuration at every call: users change it after the model is built.
SHARED = ("_attn_implementation_internal", "_experts_implementation_internal")


class EmptyAttention(nn.Module):
    """Stands in for an attention sub-layer that lost all its heads.

    Cache lengths are read from one layer, most often the first, so an emptied layer has to go on counting tokens: it
    writes one head of width 1 to its slot. Without it transformers 5.23 restarts positions at 0 in every step of static
    caches and manual decode loops, without an error. Attention weights are None, so that `output_attentions` has no
    entry for this layer.

    Args:
        layer_idx: the layer's slot in the cache.
        bias: bias of the removed output projection, [hidden]; None where it had none.
    """

    bias: nn.Parameter | None

    def __init__(self, layer_idx: int, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.register_parameter("bias", bias)

    def forward(
        self, hidden_states: Tensor, cache: Any = None, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Zeros, or the bias, in the shape of `hidden_states` [batch, tokens, hidden]; and no attention weights."""
        cache = past_key_values if cache is None else cache  # the name until transformers 5.23
        if cache is not None:
            batch, tokens = hidden_states.shape[:2]
            entry = hidden_states.new_zeros(batch, 1, tokens, 1)
            cache.update(entry, entry, self.layer_idx)
        return _constant(hidden_states, self.bias), None


class EmptyMLP(nn.Module):
    """Stands in for an MLP that lost all its channels.

    Args:
        bias: bias of the removed output projection, [hidden]; None where it had none.
    """

    bias: nn.Parameter | None

    def __init__(self, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.register_parameter("bias", bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Zeros, or the bias, in the shape of `hidden_states`."""
        return _constant(hidden_states, self.bias)


class RaggedConfig:
    """Mixed into a stock configuration: `per_layer_config` holds each layer's sizes, the fields the dense ones.

    `added_biases` names the linears of a layer that have a bias which the stock model has not.

    A layer without attention has 0 heads and 0 key/value heads; one without MLP has an intermediate size of 0.
    """

    allow_global_per_layer_attribute_access = True

    def __getattribute__(self, name: str) -> Any:
        if name in SHARED:
            whole = super().__getattribute__("__dict__").get("_model_config")
            if whole is not None:
                return getattr(whole, name)
        # transformers 5.23 warns whenever such a field is read. Nothing of these models depends on the dense sizes,
        # so the warning would only frighten users.
        return PreTrainedConfig._getattr_without_heterogeneous_validation(self, name)

    def validate_architecture(self) -> None:
        """Any number of heads will do, since `head_dim` is explicit; stock classes may want divisors of hidden_size."""


class RaggedModel(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped here
    """Mixed into a stock causal LM: builds every decoder layer from its own configuration."""

    stock_class: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            self.model.layers[index] = _decoder_layer(type(layer), config, index)
        self.post_init()

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers, and this file goes along: what is fine-tuned and saved again still loads anywhere."""
        config_class, model_class = type(self.config), type(self)
        self.config.auto_map = {
            "AutoConfig": f"{Path(FILE_NAME).stem}.{config_class.__name__}",
            "AutoModelForCausalLM": f"{Path(FILE_NAME).stem}.{model_class.__name__}",
        }
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        source = Path(__file__).read_text(encoding="utf-8").partition(f"\n\n{FAMILY_MARK}\n")[0]
        stock = (config_class.stock_class.__name__, model_class.stock_class.__name__)
        (directory / FILE_NAME).write_text(
            f"{source.rstrip()}\n\n\n{FAMILY_MARK}\n"
            f"from transformers import {stock[0]}, {stock[1]}  # noqa: E402\n\n"
            f"{config_class.__name__}, {model_class.__name__} = ragged({stock[0]}, {stock[1]})\n",
            encoding="utf-8",
        )
        super().save_pretrained(save_directory, *args, **kwargs)

    # transformers 5.23 decides the next two by reading the source file of the class; the answer lies in the stock one.
    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return bool(cls.stock_class._can_set_attn_implementation())

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return bool(cls.stock_class._can_set_experts_implementation())

    def _get_static_cache_init_shape(self) -> Any:
        # transformers 5.23 would reserve slots of 0 heads for emptied layers, which cannot take the token counter.
        # None leaves the slots to be made by the first update.
        if any(isinstance(module, EmptyAttention) for module in self.modules()):
            return None
        return super()._get_static_cache_init_shape()


@functools.cache
def ragged(config_class: Any, model_class: Any) -> tuple[Any, Any]:
    """The ragged classes of a model family; the same two at every call.

    Args:
        config_class: the family's configuration in transformers.
        model_class: its causal LM, with decoder layers in `model.layers` that are made from `(config, layer_idx)` and
            hold their sub-layers as `self_attn` and `mlp`.

    Returns:
        `Bonsai<Family>Config`, with the model type `bonsai_<family>`, and `Bonsai<Family>ForCausalLM`.
    """
    config_name, model_name = f"Bonsai{config_class.__name__}", f"Bonsai{model_class.__name__}"
    ragged_config = type(
        config_name,
        (RaggedConfig, config_class),
        {
            "__module__": __name__,
            "model_type": f"bonsai_{config_class.model_type}",
            "stock_class": config_class,
        },
    )
    ragged_model = type(
        model_name,
        (RaggedModel, model_class),
        {"__module__": __name__, "config_class": ragged_config, "stock_class": model_class},
    )
    return ragged_config, ragged_model


def _decoder_layer(layer_class: Any, config: Any, index: int) -> nn.Module:
    layer_config = config.per_layer_config[index]
    layer_config._model_config = config
    no_heads, no_channels = layer_config.num_attention_heads == 0, layer_config.intermediate_size == 0
    # Stock layers cannot be built without heads or channels: they get one, and lose the sub-layer afterwards.
    if no_heads:
        layer_config.num_attention_heads = layer_config.num_key_value_heads = 1
    if no_channels:
        layer_config.intermediate_size = 1
    layer: nn.Module = layer_class(layer_config, index)
    for path in getattr(config, "added_biases", ()):
        linear: Any = layer.get_submodule(path)
        layer.set_submodule(path, nn.Linear(linear.in_features, linear.out_features, dtype=linear.weight.dtype))
    if no_heads:
        layer.self_attn = EmptyAttention(index, _output_bias(layer.self_attn, config.head_dim))
    if no_channels:
        layer.mlp = EmptyMLP(_output_bias(layer.mlp, 1))
    return layer


def _output_bias(sublayer: Any, in_features: int) -> nn.Parameter | None:
    """The bias of a sub-layer's output projection: the last linear that reads so many features."""
    linears = [module for module in sublayer.modules() if isinstance(module, nn.Linear)]
    return [linear for linear in linears if linear.in_features == in_features][-1].bias


def _constant(hidden_states: Tensor, bias: Tensor | None) -> Tensor:
    return torch.zeros_like(hidden_states) if bias is None else bias.expand_as(hidden_states)
