"""Language models whose decoder layers differ in width, built from transformers' own classes.

This file imports torch and transformers only. Bonsai uses it as it is. Every checkpoint of the shapes `free` has a
copy of it, with the classes of one model family made at its end, so that transformers loads such a checkpoint where
Bonsai is not installed (`trust_remote_code=True`).
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

OLDEST = (5, 14)
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(
        f"This checkpoint needs transformers >= {OLDEST[0]}.{OLDEST[1]} (installed: {transformers.__version__}), "
        f"because its layers differ in width: pip install --upgrade transformers. Older ones load what Bonsai saves "
        f"with --shapes uniform, or where only whole layers leave (--units layer)."
    )

FILE_NAME = "modeling_bonsai.py"
PREFIX = "bonsai_"
FAMILY_MARK = "# The model family of this checkpoint."
# What a layer must read from the model's configuration at every call: users change it after the model is built.
MODEL_WIDE = ("_attn_implementation_internal", "_experts_implementation_internal")


class EmptyAttention(nn.Module):
    """Stands in for an attention sub-layer that lost all its heads.

    Cache lengths are read from one layer, most often the first, so an emptied layer must go on counting tokens: it
    writes one head of width 1 to its slot. Otherwise transformers 5.23 silently restarts positions at 0 in every step
    of static caches and manual decode loops. Attention weights are None: `output_attentions` has no entry for this
    layer.

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
        self,
        hidden_states: Tensor,
        cache: Any = None,
        past_key_values: Any = None,
        layer_past: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Zeros, or the bias, in the shape of `hidden_states` [batch, tokens, hidden]; and no attention weights."""
        # `past_key_values` until transformers 5.23; `layer_past` in GPT-NeoX.
        cache = next((given for given in (cache, past_key_values, layer_past) if given is not None), None)
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

    A layer without attention has 0 heads and 0 key/value heads; one without MLP has an intermediate size of 0.
    `bonsai_family` says how the family is built: the names of its layers, of their linears, and of the fields.
    `added_biases` names the linears of a layer that have a bias unlike in the stock model.
    """

    allow_global_per_layer_attribute_access = True

    def __getattribute__(self, name: str) -> Any:
        if name in MODEL_WIDE:
            whole = super().__getattribute__("__dict__").get("_model_config")
            if whole is not None:
                return getattr(whole, name)
        # transformers 5.23 warns whenever a dense size is read. Nothing in these models depends on one.
        return transformers.PreTrainedConfig._getattr_without_heterogeneous_validation(self, name)

    def validate_architecture(self) -> None:
        """Any number of heads will do, since `head_dim` is explicit; stock classes may want divisors of hidden_size."""


class RaggedModel(transformers.PreTrainedModel):  # type: ignore[misc]  # transformers is untyped here
    """Mixed into a stock causal LM or its base model: gives every decoder layer the sizes of its own configuration.

    Attributes:
        stock_class: the stock one.
        auto_classes: the family's ragged classes by the names of the auto classes that make them.
    """

    stock_class: Any
    auto_classes: dict[str, Any]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        layers = config.bonsai_family["layers"].removeprefix(f"{self.base_model_prefix}.")
        for index, layer in enumerate(self.base_model.get_submodule(layers).children()):
            _shrink(layer, config, index)
        self.post_init()

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers, with this file: what is fine-tuned and saved again still loads anywhere."""
        self.save_code(Path(save_directory))
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_code(self, directory: Path) -> None:
        """Write this file, with the classes of the model's family at its end, and name them in the configuration."""
        module = Path(FILE_NAME).stem
        self.config.auto_map = {auto: f"{module}.{made.__name__}" for auto, made in self.auto_classes.items()}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE_NAME).write_text(self.code(), encoding="utf-8")

    @classmethod
    def code(cls) -> str:
        """This file, with the classes of the model's family at its end."""
        source = Path(__file__).read_text(encoding="utf-8").partition(f"\n\n{FAMILY_MARK}\n")[0]
        made = ", ".join(ragged_class.__name__ for ragged_class in cls.auto_classes.values())
        stock = ", ".join(ragged_class.stock_class.__name__ for ragged_class in cls.auto_classes.values())
        return (
            f"{source.rstrip()}\n\n\n{FAMILY_MARK}\n"
            f"from transformers import {stock}  # noqa: E402\n\n"
            f"{made} = ragged({stock})\n"
        )

    # transformers 5.23 decides the next two by reading the source file of the class; the stock one has the answer.
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


def derives_head_dim(config_class: Any) -> bool:
    """Whether a stock configuration always takes hidden size / heads for the size of a head."""
    return isinstance(getattr(config_class, "head_dim", None), property)


@functools.cache
def ragged(config_class: Any, base_class: Any, model_class: Any) -> tuple[Any, Any, Any]:
    """The ragged classes of a model family; the same three at every call.

    Args:
        config_class: the family's configuration in transformers.
        base_class: its model without a head, which `transformers.AutoModel` makes.
        model_class: its causal LM.

    Returns:
        `Bonsai<Family>Config`, with the model type `bonsai_<family>`, `Bonsai<Family>Model` and
        `Bonsai<Family>ForCausalLM`.
    """
    ragged_config = type(
        f"Bonsai{config_class.__name__}",
        (RaggedConfig, config_class),
        {
            "__module__": __name__,
            "model_type": f"{PREFIX}{config_class.model_type}",
            "stock_class": config_class,
            # Where the stock class derives it from the number of heads, it becomes a field as elsewhere.
            **({"head_dim": None} if derives_head_dim(config_class) else {}),
        },
    )
    auto_classes = {"AutoConfig": ragged_config}
    for auto, stock_class in (("AutoModel", base_class), ("AutoModelForCausalLM", model_class)):
        auto_classes[auto] = type(
            f"Bonsai{stock_class.__name__}",
            (RaggedModel, stock_class),
            {
                "__module__": __name__,
                "config_class": ragged_config,
                "stock_class": stock_class,
                "auto_classes": auto_classes,
            },
        )
    return ragged_config, auto_classes["AutoModel"], auto_classes["AutoModelForCausalLM"]


def _shrink(layer: Any, config: Any, index: int) -> None:
    """Replace the linears of a stock layer by smaller ones, and a sub-layer without units by a stand-in."""
    sizes, family = config.per_layer_config[index], config.bonsai_family
    attention, mlp = family["attention"], family["mlp"]
    if attention is not None:
        heads, groups = _heads(sizes, attention)
        dense_heads, dense_groups = _heads(config, attention)
        shares = {attention["output"]: (heads, dense_heads)}
        for part, *share in (
            ("query", heads, dense_heads),
            ("key", groups, dense_groups),
            ("value", groups, dense_groups),
        ):
            before = shares.get(attention[part], (0, 0))  # projections may share a linear
            shares[attention[part]] = (before[0] + share[0], before[1] + share[1])
        output = _shrink_linears(layer, config, attention["module"], shares, attention["output"])
        module = layer.get_submodule(attention["module"])
        for name in attention["heads_attributes"]:
            setattr(module, name, heads)
        for name in attention["groups_attributes"]:
            setattr(module, name, groups)
        if groups and hasattr(module, "num_key_value_groups"):
            module.num_key_value_groups = heads // groups
        if attention["reads_config"]:
            sizes._model_config = config
            module.config = sizes
        if groups == 0:
            layer.set_submodule(attention["module"], EmptyAttention(index, output.bias))
    experts = family.get("experts")
    if experts is not None and any(name == experts["module"] for name, _ in layer.named_modules()):
        _shrink_experts(layer, experts, *(getattr(sizes, experts[field]) for field in ("count_field", "width_field")))
        return
    kept = (getattr(sizes, mlp["width_field"]), getattr(config, mlp["width_field"]))
    shares = dict.fromkeys([*mlp["inputs"], mlp["output"]], kept)
    output = _shrink_linears(layer, config, mlp["module"], shares, mlp["output"])
    if kept[0] == 0:
        # Without a module of its own, it takes the output projection's place, and the other linears do nothing.
        for name in () if mlp["module"] else mlp["inputs"]:
            layer.set_submodule(name, nn.Identity())
        layer.set_submodule(mlp["module"] or mlp["output"], EmptyMLP(output.bias))


def _heads(config: Any, attention: Any) -> tuple[int, int]:
    """Numbers of query heads and of KV groups; without a field for the latter there is one group."""
    heads = getattr(config, attention["heads_field"])
    return heads, min(heads, 1) if attention["groups_field"] is None else getattr(config, attention["groups_field"])


def _shrink_experts(layer: Any, experts: Any, count: int, width: int) -> None:
    """Leave `count` experts of a width in a layer, and as many outputs of its router."""
    module, router = layer.get_submodule(experts["module"]), layer.get_submodule(experts["router"])
    dense, output = module.intermediate_dim, experts["weights"][-1]
    for holder, names in ((module, experts["weights"]), (router, experts["router_weights"])):
        for name in names:
            whole = getattr(holder, name)
            size = [count, *whole.shape[1:]]
            if holder is module:
                dim = 2 if name == output else 1
                size[dim] = size[dim] * width // dense
            setattr(holder, name, nn.Parameter(whole.detach()[tuple(map(slice, size))].clone(), whole.requires_grad))
        holder.num_experts = count
    module.intermediate_dim = width


def _shrink_linears(layer: Any, config: Any, module: str, shares: dict[str, tuple[int, int]], output: str) -> nn.Linear:
    """Leave a share, (units, of how many), of each of a site's linears; returns the new output projection."""
    for name, (units, of) in shares.items():
        path = f"{module}.{name}" if module else name
        linear: Any = layer.get_submodule(path)
        rows, columns = linear.out_features, linear.in_features
        rows, columns = (rows, columns * units // of) if name == output else (rows * units // of, columns)
        bias = linear.bias is not None or path in getattr(config, "added_biases", ())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")  # replaced afterwards
            small = nn.Linear(columns, rows, bias, device=linear.weight.device, dtype=linear.weight.dtype)
        layer.set_submodule(path, small)
        if name == output:
            last = small
    return last


def _constant(hidden_states: Tensor, bias: Tensor | None) -> Tensor:
    zeros = torch.zeros_like(hidden_states)  # of its own memory: Falcon adds to it in place
    return zeros if bias is None else zeros + bias
