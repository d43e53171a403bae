"""Recognises how a model is built that no family is declared for, and proves it before it is used.

A small random model of the same architecture is made from the configuration: its first and last layer, and a small
vocabulary. What its linears read in one forward pass shows which of them belong together. A family found in this way is
accepted only if masking units and slicing them away give the same logits.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from bonsai_core.contracts import AttentionSite, Family, MlpSite
from bonsai_core.errors import BonsaiError
from bonsai_core.model.recognition.laws import family_mismatch
from bonsai_core.model.structure.layer_count import set_layers

NAME = "recognised"
VOCABULARY, TOKENS = 512, 8
CODE_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError)
"""What modeling code raises when sizes or fields do not fit."""
HEADS_FIELDS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
GROUPS_FIELDS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_attention_groups")
WIDTH_FIELDS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "inner_dim", "hidden_dim")


@dataclass(frozen=True)
class _Seen:
    """A linear of a decoder layer, and which of the layer's tensors it reads.

    Attributes:
        path: its name, relative to the layer.
        reads: the same number for linears that get the same tensor.
    """

    path: str
    rows: int
    columns: int
    reads: int

    @property
    def parent(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def recognise(config: Any) -> Family:
    """The family of a model, from its configuration; the laws hold for it.

    Raises:
        BonsaiError: no family is found, or the laws do not hold; the message describes what was found.
    """
    model = small_model(config)
    layers = _layers_path(model)
    seen = _linears(model, layers)
    tried: list[str] = []
    for candidate in _candidates(config, layers, seen, model):
        problem = family_mismatch(copy.deepcopy(model), candidate)
        if problem is None:
            return candidate
        sites = candidate.model_dump(exclude={"name", "model_types", "title"}, exclude_defaults=True)
        tried.append(f"{sites}: {problem}")
    if not tried:
        linears = ", ".join(f"{s.path} [{s.rows} x {s.columns}]" for s in seen)
        raise BonsaiError(
            f"the linears of a decoder layer in {layers} ({linears}) are not an attention and an MLP of known shape"
        )
    raise BonsaiError(f"what it looks like does not hold: {'; '.join(tried[:2])}")


def small_model(config: Any) -> Any:
    """A random model of the architecture, float32, with weights so large that every unit matters."""
    from transformers import AutoModelForCausalLM

    small = copy.deepcopy(config)
    try:
        if small.num_hidden_layers > 2:
            set_layers(small, (0, small.num_hidden_layers - 1))
        small.vocab_size = min(config.vocab_size, VOCABULARY)
        if getattr(small, "pad_token_id", None) is not None:
            small.pad_token_id = 0
        with torch.random.fork_rng():
            model = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm" in name or "ln" in name else 0.0
            nn.init.normal_(parameter, mean=mean, std=0.2, generator=generator)
    except (StrictDataclassError, *CODE_ERRORS, LookupError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BonsaiError(f"a small model cannot be made from its configuration: {reason}") from error
    return model.eval()


def _layers_path(model: nn.Module) -> str:
    """Where the list of decoder layers is."""
    number = getattr(model.config, "num_hidden_layers", None)
    lists: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == number and len({type(layer) for layer in module}) == 1
    ]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outermost) != 1:
        raise BonsaiError(f"it has {len(outermost)} lists of {number} equal layers, not one")
    return outermost[0]


def _linears(model: Any, layers: str) -> list[_Seen]:
    """The linears of the first layer in the order in which they are called."""
    called: list[tuple[str, nn.Linear, Tensor]] = []

    def record(path: str, module: nn.Linear, args: tuple[Tensor, ...]) -> None:
        called.append((path, module, args[0]))

    with ExitStack() as hooks, torch.inference_mode():
        for path, module in model.get_submodule(layers)[0].named_modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_pre_hook(partial(record, path)))
        try:
            model(input_ids=torch.arange(TOKENS)[None] % model.config.vocab_size, use_cache=False)
        except (*CODE_ERRORS, IndexError) as error:
            raise BonsaiError(f"a small model does not run: {error}") from error
    inputs: list[Tensor] = []
    for _, _, given in called:
        if not any(given is other for other in inputs):
            inputs.append(given)
    number = {id(given): index for index, given in enumerate(inputs)}
    return [_Seen(path, m.out_features, m.in_features, number[id(given)]) for path, m, given in called]


def _candidates(config: Any, layers: str, seen: list[_Seen], model: Any) -> Iterator[Family]:
    """Families that fit the linears, the likeliest first; those without attention last."""
    hidden = model.get_input_embeddings().weight.shape[1]
    heads_field = _field(config, HEADS_FIELDS)
    if heads_field is None:
        return
    # Without a field, or where multi-query attention ignores it, all heads may share one group.
    layer, groups_fields = model.get_submodule(layers)[0], (_field(config, GROUPS_FIELDS), heads_field, None)
    attentions = [
        attention
        for groups_field in dict.fromkeys(groups_fields)
        for attention in _attentions(config, heads_field, groups_field, seen, hidden, layer)
    ]
    for attention, mlp in itertools.product((*attentions, None), _mlps(config, seen, hidden)):
        if attention is None or attention.module != mlp.module or not mlp.module:
            yield Family(
                name=NAME,
                model_types=(config.model_type,),
                layers=layers,
                attention=attention,
                mlp=mlp,
                why="" if attention else "slicing its heads is not the same as masking them",
            )


def _field(config: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(getattr(config, name, None), int)), None)


def _attentions(
    config: Any, heads_field: str, groups_field: str | None, seen: list[_Seen], hidden: int, layer: nn.Module
) -> Iterator[AttentionSite]:
    heads, groups = getattr(config, heads_field), 1 if groups_field is None else getattr(config, groups_field)
    for output in seen:
        head_dim, rest = divmod(output.columns, heads)
        before = [s for s in seen[: seen.index(output)] if s.parent == output.parent and s.reads != output.reads]
        if output.rows != hidden or rest or not before or len({s.reads for s in before}) > 1:
            continue
        wanted = (heads * head_dim, groups * head_dim, groups * head_dim)
        if tuple(s.rows for s in before) == wanted:
            names, layouts = [s.name for s in before], (False,)
        elif len(before) == 1 and before[0].rows == sum(wanted):
            names, layouts = [before[0].name] * 3, (False, True)  # type: ignore[assignment]
        else:
            continue
        module = layer.get_submodule(output.parent)
        counted = _counted(module, heads, groups)
        for interleaved, (heads_attributes, groups_attributes), reads_config in itertools.product(
            layouts, dict.fromkeys((((), ()), counted)), (False, True)
        ):
            yield AttentionSite(
                module=output.parent,
                query=names[0],
                key=names[1],
                value=names[2],
                output=output.name,
                interleaved=interleaved,
                heads_field=heads_field,
                groups_field=groups_field,
                heads_attributes=heads_attributes,
                groups_attributes=groups_attributes,
                reads_config=reads_config and hasattr(module, "config"),
                divides_hidden_size="head_dim" not in config.to_dict(),
            )


def _counted(module: nn.Module, heads: int, groups: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the module's own counts of heads and of groups."""
    numbers = {name: value for name, value in vars(module).items() if type(value) is int and "head" in name}
    of_groups = [name for name, value in numbers.items() if value == groups and ("kv" in name or "key_value" in name)]
    of_heads = [name for name, value in numbers.items() if value == heads and name not in of_groups]
    return tuple(of_heads), tuple(name for name in of_groups if name != "num_key_value_groups")


def _mlps(config: Any, seen: list[_Seen], hidden: int) -> Iterator[MlpSite]:
    for output in seen:
        width = output.columns
        fields = [name for name in WIDTH_FIELDS if getattr(config, name, None) == width]
        if output.rows != hidden or not fields:
            continue
        before = [
            s
            for s in seen[: seen.index(output)]
            if s.parent == output.parent and s.columns == hidden and s.rows in (width, 2 * width)
        ]
        if before and len({s.reads for s in before}) == 1 and len({s.rows for s in before}) == 1:
            names = tuple(s.name for s in before for _ in range(s.rows // width))
            yield MlpSite(module=output.parent, inputs=names, output=output.name, width_field=fields[0])
