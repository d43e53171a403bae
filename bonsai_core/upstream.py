"""What Bonsai uses of other packages beyond their documented interfaces, in one place.

A release of transformers, accelerate, peft, bitsandbytes or torch may change any of it without notice. Each function
says what it relies on and since which release; "5.14 on" names the oldest transformers that Bonsai runs on, even if
older ones have it too. `benchmarks/transformers_versions.py` runs the laws on the oldest and the newest release. The
modeling file of checkpoints (checkpoint/modeling_bonsai.py) imports nothing of Bonsai, and says itself what it relies
on.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

# Conversion of weights between files and models


def stored_names(model: Any, on_disk: Iterable[str]) -> Iterator[tuple[str, str, Any, str]]:
    """Where transformers puts the tensors of a model's files.

    transformers 5.14 on: `get_model_conversion_mapping`, `WeightRenaming`, `WeightConverter` with its
    `source_patterns` and `target_patterns`, `dot_natural_key`, and `rename_source_key` with the model's base prefix
    (called `prefix` in 5.0) and state dict as its fourth and fifth argument.

    Args:
        model: in transformers' own layout; it may be on the meta device.
        on_disk: names of the tensors in its files.

    Yields:
        (name on disk, name in the model, converter, its pattern that fits the name on disk) in the order in which
        transformers loads them; converter None and pattern "" for a tensor that is loaded as it is. Of several tensors
        that a converter makes, the name in the model is that of the first.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [change for change in mapping if isinstance(change, WeightRenaming)]
    converters = [change for change in mapping if isinstance(change, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    present = model.state_dict()
    for name in sorted(on_disk, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, present)
        yield (name, target, None, "") if pattern is None else (name, target, by_pattern[pattern], pattern)


def converted(
    converter: Any, target: str, pieces: Mapping[str, Iterable[str]], model: Any, load: Callable[[str], Tensor]
) -> Tensor:
    """The tensor that a converter of `stored_names` makes.

    transformers 5.14 on: `WeightConverter.add_tensor` takes a function that gives the tensor, `convert` returns
    tensors, or lists of one, by name.

    Args:
        target: its name in the model.
        pieces: names on disk by the converter's patterns, in order.
        load: reads a tensor on disk by its name.
    """
    own = deepcopy(converter)  # it collects its inputs
    for pattern, names in pieces.items():
        for name in names:
            own.add_tensor(target, name, pattern, partial(load, name))
    made = own.convert(target, model=model, config=model.config)[target]
    tensor: Tensor = made[0] if isinstance(made, list) else made
    return tensor


def as_stored(model: Any, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """What `save_pretrained` writes for a tensor of a model.

    transformers 5.14 on: `revert_weight_conversion` works on any part of the state dict that has all tensors made from
    the same ones on disk.
    """
    from transformers.core_model_loading import revert_weight_conversion

    return list(revert_weight_conversion(model, {name: tensor}).items())


# Loading and saving


def tied_pairs(model: Any) -> list[tuple[str, str]]:
    """Pairs of names under which the model has one and the same weight.

    transformers 5.0 on: `all_tied_weights_keys`; models of a checkpoint's own code may lack it.
    """
    return list((getattr(model, "all_tied_weights_keys", None) or {}).items())


def may_be_missing(model: Any) -> tuple[str, ...]:
    """Patterns of weights that files of this model need not have: `_keys_to_ignore_on_load_missing`, 5.14 on."""
    return tuple(model._keys_to_ignore_on_load_missing or ())


def may_be_left_over(model: Any) -> tuple[str, ...]:
    """Patterns of tensors in files that this model drops: `_keys_to_ignore_on_load_unexpected`, 5.14 on."""
    return tuple(model._keys_to_ignore_on_load_unexpected or ())


def save_own_code(owner: Any, directory: Path, config: Any = None) -> bool:
    """Copy the code that a model or tokenizer came with into a checkpoint; False if it came with none.

    transformers 5.14 on: `_auto_class` is set where remote code was loaded; `custom_object_save` copies the files of
    the class and adds to `config.auto_map`.
    """
    from transformers.dynamic_module_utils import custom_object_save

    if getattr(owner, "_auto_class", None) is None:
        return False
    custom_object_save(owner, directory, config=config)
    return True


def set_model_name(config: Any, name: str) -> None:
    """Set the model's name in a configuration, by which transformers chooses tokenizer classes.

    transformers 5.14 on: `_name_or_path`; configurations from GGUF files have a `_model_name_or_path` too, which would
    be saved.
    """
    config._name_or_path = name
    vars(config).pop("_model_name_or_path", None)


# Weights that are not on the device that uses them


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module has its weights only while it runs (accelerate 1.10 on)."""
    from accelerate.utils import has_offloaded_params

    return bool(has_offloaded_params(module))


def offloaded_weights(module: Any) -> Mapping[str, Tensor]:
    """The weights that accelerate puts into an offloaded module, by their names in it.

    accelerate 1.10 on: `_hf_hook.weights_map`.
    """
    weights: Mapping[str, Tensor] = module._hf_hook.weights_map
    return weights


def set_offloaded_weights(module: Any, weights: Mapping[str, Tensor] | None) -> None:
    """Have accelerate (1.10 on) put other weights into an offloaded module; None: the module cannot run again."""
    module._hf_hook.weights_map = weights


def set_offloaded(module: Any, offloaded: bool) -> None:
    """Whether accelerate (1.10 on) fetches a module's weights for every call, or uses those that the module has.

    `_hf_hook.offload`, which is read before and after a call. Where it is False, the module does not count as
    offloaded.
    """
    module._hf_hook.offload = offloaded


def execution_device(module: Any) -> torch.device:
    """Where an offloaded module runs: `_hf_hook.execution_device`, accelerate 1.10 on."""
    return torch.device(module._hf_hook.execution_device)


def offloaded_file(weights: Any, name: str) -> tuple[str, str] | None:
    """The safetensors file that has a weight of `offloaded_weights`, and its name there; None if it is elsewhere.

    accelerate 1.10 on: the map is a `PrefixedDataset` over an `OffloadedWeightsLoader`, whose `state_dict` goes before
    its `index`. The loader itself would copy a weight to its device or to another type as a whole.
    """
    whole_name, dataset = f"{getattr(weights, 'prefix', '')}{name}", getattr(weights, "dataset", None)
    if whole_name in getattr(dataset, "state_dict", {}):
        return None
    place: Mapping[str, str] = getattr(dataset, "index", {}).get(whole_name, {})
    file = place.get("safetensors_file")
    return None if file is None else (file, place.get("weight_name", whole_name))


def offload_index(module: Any) -> MutableMapping[str, Any]:
    """Where the weights of offloaded modules are on disk, by their names in the model; one index for all modules.

    accelerate 1.10 on: the map is a `PrefixedDataset` over an `OffloadedWeightsLoader` with an `index`.
    """
    index: MutableMapping[str, Any] = module._hf_hook.weights_map.dataset.index
    return index


# Modules and their calls


def map_tensors(change: Callable[[Any], Any], values: Any) -> Any:
    """Change the leaves of nested tuples, lists and dicts: `torch.utils._pytree.tree_map`, torch 2.6 on."""
    return _pytree.tree_map(change, values)


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order: `torch.utils._pytree.tree_leaves`, torch 2.6 on."""
    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def has_hooks(model: nn.Module) -> bool:
    """Whether forward hooks are left on any of a model's modules.

    torch 2.6 on: `_forward_pre_hooks` and `_forward_hooks`.
    """
    return any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def gated(experts: Any, inputs: Tensor) -> Tensor:
    """The gate of experts, applied to their input projections' outputs: [..., 2 * width] -> [..., width].

    transformers 5.14 on: `_apply_gate`, which the decorator of experts adds where a class has none.
    """
    inner: Tensor = experts._apply_gate(inputs)
    return inner


def is_experts(module: nn.Module) -> bool:
    """Whether a module is the experts of a mixture: called with hidden states, experts by token, and their weights.

    transformers 5.14 on: the decorator of such classes sees to it that they have `_apply_gate`.
    """
    return hasattr(module, "_apply_gate")


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """The argument that passes a key-value cache to a model.

    `cache` since transformers 5.24, `past_key_values` before, and in models of a checkpoint's own code.
    """
    return {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}


def cache_of(output: Any) -> Any:
    """The key-value cache in a model's output: `cache` since transformers 5.24, `past_key_values` before."""
    return output.cache if "cache" in output else output.past_key_values


# bitsandbytes

PACKED_ROWS, PACKED_COLUMNS = 32, 64


def use_general_kernels(model: nn.Module) -> None:
    """Keep 4-bit linears away from bitsandbytes' packed CPU kernel if it would refuse their sizes.

    bitsandbytes 0.50: `support_avx512bf16_for_cpu` on `Linear4bit`.
    """
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if getattr(module, "support_avx512bf16_for_cpu", False):
            even = module.out_features % PACKED_ROWS == 0 and module.in_features % PACKED_COLUMNS == 0
            module.support_avx512bf16_for_cpu = even


def quiet_products() -> None:
    """Silence the line that bitsandbytes (0.50) logs at every call of an 8-bit linear: its inputs become float16."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


# Training


def checkpoint_activations(model: Any) -> None:
    """Have a causal LM compute activations twice in training instead of keeping them.

    `activation_checkpointing_enable` since transformers 5.23, `gradient_checkpointing_enable` before.
    """
    newer = hasattr(model, "activation_checkpointing_enable")
    name = "activation_checkpointing" if newer else "gradient_checkpointing"
    getattr(model, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})


def use_one_gpu(arguments: Any) -> None:
    """Keep the Trainer from wrapping the model in DataParallel, whose threads share one teacher and one generator.

    transformers 5.14 on: `TrainingArguments._n_gpu`.
    """
    arguments._n_gpu = 1


def leave_unwrapped(trainer: Any) -> None:
    """Keep the Trainer from wrapping its model in DistributedDataParallel: it reduces its gradients itself.

    accelerate 1.10 on: `Accelerator.prepare` wraps models by `prepare_model`.
    """
    trainer.accelerator.prepare_model = lambda model, *args, **kwargs: model


def is_broken_connection(error: RuntimeError) -> bool:
    """Whether a collective operation failed because a process that takes part in it has ended.

    torch 2.6 on: gloo says so in a plain RuntimeError, NCCL and the store in a DistError.
    """
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error).lower()


def average_over_passes(trainer: Any) -> None:
    """Have the Trainer divide the loss of each pass by the number of passes per step.

    transformers 5.14 on: it does so if `model_accepts_loss_kwargs` is false; otherwise it assumes that the model has
    already divided the loss by the tokens of the whole step.
    """
    trainer.model_accepts_loss_kwargs = False


@contextmanager
def peft_warnings_ignored() -> Iterator[None]:
    """Ignore peft's warnings when it wraps a model.

    peft 0.21 uses an old name of transformers 5.24, and has patterns for experts that some models do not need.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="The following (rank|alpha)_pattern")
        yield


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are fast: on GPUs that have them, and on CPUs with matrix units (Intel's AMX).

    Other CPUs take several times as long as for float32, those with AVX-512's instructions for bfloat16 about as long.
    `torch.cpu.get_capabilities` is in torch from 2.10 on.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_capabilities = device.type == "cpu" and hasattr(torch.cpu, "get_capabilities")
    return has_capabilities and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def keep_processes_that_grow() -> None:
    """Have loky keep this worker process when it grows by 300 MB, instead of starting another one. joblib 1.6."""
    from joblib.externals.loky import process_executor

    process_executor._USE_PSUTIL = False
