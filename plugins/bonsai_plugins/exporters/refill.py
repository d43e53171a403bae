"""Attentions that lost all their heads get some of zeros, for runtimes that want an attention in every layer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bonsai_core import AttentionSite

if TYPE_CHECKING:
    from torch import Tensor

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def emptied(config: Any) -> list[int]:
    """The layers without heads, in the configuration of a checkpoint of the shapes `free`."""
    if config.bonsai_family["attention"] is None:
        return []
    field = config.bonsai_family["attention"]["heads_field"]
    return [n for n in range(config.num_hidden_layers) if getattr(config.per_layer_config[n], field) == 0]


def refill(directory: Path, config: Any, groups: int) -> None:
    """Give every emptied attention KV groups of one head, whose weights are zeros; no output changes by it.

    What is there is not loaded, except, one at a time, files with the bias of an output projection that was removed.

    Args:
        directory: a checkpoint of the shapes `free`, which is changed.
        config: its configuration, as it was.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    layers = emptied(config)
    if not layers:
        return
    site = AttentionSite.model_validate(config.bonsai_family["attention"])
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    fields = [site.heads_field, *([site.groups_field] if site.groups_field else [])]
    for layer in layers:
        values["per_layer_config"][str(layer)] |= dict.fromkeys(fields, groups)
    write_json(directory / "config.json", values)

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    modules = [f"{config.bonsai_family['layers']}.{layer}.{site.module}." for layer in layers]
    renamed = {f"{module}bias": f"{module}{site.output}.bias" for module in modules}
    files = weight_files(directory)
    on_disk = {name: file for file in files for name in _rename(file, renamed)}
    with safe_open(files[0], "pt") as opened:
        dtype = opened.get_tensor(next(iter(opened.keys()))).dtype
    added = {
        name: torch.zeros(tensor.shape, dtype=dtype)
        for name, tensor in model.state_dict().items()
        if name.startswith(tuple(modules)) and name not in on_disk
    }
    _add_file(directory, on_disk, added)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a checkpoint's weights."""
    if (directory / WHOLE).is_file():
        return [directory / WHOLE]
    files = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    return [directory / name for name in sorted({*files})]


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a file as transformers does."""
    file.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _rename(file: Path, names: Mapping[str, str]) -> Iterable[str]:
    """Rename tensors of a file; returns the names of all."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, "pt") as opened:
        found = list(opened.keys())
    if names.keys() & {*found}:
        save_file({names.get(name, name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return [names.get(name, name) for name in found]


def _add_file(directory: Path, on_disk: Mapping[str, Path], added: dict[str, Tensor]) -> None:
    """Write tensors to a file of their own, and name all files as transformers does, with an index."""
    from safetensors.torch import save_file

    last = directory / "added.safetensors"
    save_file(added, last, {"format": "pt"})
    files = [*sorted({*on_disk.values()}), last]
    names = {file: f"model-{n:05}-of-{len(files):05}.safetensors" for n, file in enumerate(files, 1)}
    total = sum(map(_data_bytes, files))
    for file, name in names.items():
        file.rename(directory / name)
    weight_map = {name: names[file] for name, file in {**on_disk, **dict.fromkeys(added, last)}.items()}
    write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _data_bytes(file: Path) -> int:
    """Bytes of tensors in a file, which begins with the length of its header."""
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    return file.stat().st_size - 8 - header
