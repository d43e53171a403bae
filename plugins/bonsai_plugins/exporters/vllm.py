"""Checkpoints for vLLM, which runs those whose layers differ in width in its Transformers backend."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bonsai_core import Checkpoint, Exporter, Family, Shapes
from bonsai_plugins.exporters.files import CONFIG, copy_files, read_config, write_json
from bonsai_plugins.exporters.refill import emptied, refill
from bonsai_plugins.exporters.runners import RUNNERS
from bonsai_plugins.exporters.runners.vllm_runner import backend

FIXED_WIDTH = {"falcon": ("ffn_hidden_size", 4)}
"""Model types whose implementation in vLLM 0.32 takes a multiple of the hidden size for the width of MLPs."""


class Vllm(Exporter):
    """A checkpoint that `vllm serve` takes.

    Stock checkpoints are copied. So are the weights of others, with the code of this version of Bonsai; but layers that
    lost their attention get one of zeros, since vLLM wants one in every layer.
    """

    name: ClassVar[str] = "vllm"
    runtime: ClassVar[str] = "vllm"
    variant: ClassVar[str] = "tensor_parallel"
    runner: ClassVar[Path | None] = RUNNERS / "vllm_runner.py"

    tensor_parallel: int = Field(1, ge=1, description="Devices that share every layer: heads and widths divide by it.")

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        family = checkpoint.family
        if not checkpoint.stock and not _in_backend(checkpoint.config):
            instead = "--units layer" if checkpoint.model_type in FIXED_WIDTH else "--shapes uniform"
            return (
                f"its Transformers backend, which runs layers of different widths, does not run the type "
                f"{checkpoint.model_type}. Prune with {instead}."
            )
        if _has_other_width(checkpoint):
            return (
                f"its own implementation of the type {checkpoint.model_type} does not read the width of MLPs. "
                f"Prune with --units layer."
            )
        if family is None:
            return None
        if not checkpoint.stock and _has_narrow_experts(checkpoint, family):
            return (
                "it would make experts as wide as the dense model's, with whatever is in memory for what is missing. "
                "Prune with --shapes uniform."
            )
        for number, sizes in enumerate(checkpoint.layers):
            if not _divides(sizes, family, self.tensor_parallel):
                shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
                return (
                    f"{self.tensor_parallel} devices cannot share layer {number} ({shown}): heads, KV groups and "
                    f"widths have to be multiples of {self.tensor_parallel}. Prune with --round-to, or use fewer "
                    f"devices."
                )
        return None

    def as_saved(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.stock:
            return True
        written = read_config(checkpoint.path)
        named = "AutoModel" in written["auto_map"] and _renamed(checkpoint.config).items() <= written.items()
        return named and not emptied(checkpoint.config)

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        copy_files(checkpoint.path, out)
        if checkpoint.stock:
            return
        _write_code(checkpoint.config, out)
        refill(out, checkpoint.config, self.tensor_parallel)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        options = ["--model-impl transformers"] if backend(read_config(checkpoint.path)) == "transformers" else []
        options += [] if checkpoint.stock else ["--trust-remote-code"]
        options += [f"--tensor-parallel-size {self.tensor_parallel}"] if self.tensor_parallel > 1 else []
        return [" ".join([f"vllm serve {shlex.quote(str(out))}", *options])]

    def shapes(self, config: Any, family: Family) -> Shapes:
        devices = self.tensor_parallel
        groups = devices if family.attention is None else family.attention.groups(config)
        shared = min(devices, groups)  # devices may have copies of a group, but not parts of one
        return Shapes(
            # Its backend keeps room for all experts of the dense model, so that removing some would save nothing.
            uniform=family.experts is not None or not _in_backend(config),
            min_units={"attention": shared, "query": 1},
            round_to={
                "attention": shared,
                "query": devices // math.gcd(devices, groups),
                "mlp": devices,
                "expert_width": devices,
            },
            excluded=("mlp", "sublayer") if config.model_type in FIXED_WIDTH else (),
        )


def _in_backend(config: Any) -> bool:
    """Whether vLLM's Transformers backend can compute the attention of a model itself, as vLLM 0.32 asks its class."""
    from transformers import MODEL_MAPPING

    model_class = MODEL_MAPPING[type(config)]
    return bool(model_class.is_backend_compatible() or model_class._can_set_attn_implementation())


def _has_other_width(checkpoint: Checkpoint) -> bool:
    """Whether vLLM's own implementation would give a stock checkpoint's MLPs another width."""
    width, config = FIXED_WIDTH.get(checkpoint.model_type), checkpoint.config
    return checkpoint.stock and width is not None and getattr(config, width[0]) != width[1] * config.hidden_size


def _has_narrow_experts(checkpoint: Checkpoint, family: Family) -> bool:
    """Whether experts are narrower than the configuration says for the whole model, where vLLM reads their width."""
    if family.experts is None:
        return False
    field = family.experts.width_field
    return any(sizes[field] != getattr(checkpoint.config, field) for sizes in checkpoint.layers)


def _divides(sizes: Mapping[str, int], family: Family, devices: int) -> bool:
    """Whether devices can share a layer: all get as many heads and channels, and whole KV groups, maybe copies."""
    widths = [site.width_field for site in (family.mlp, family.experts) if site is not None]
    if any(sizes.get(field, 0) % devices for field in widths):
        return False
    if family.attention is None:
        return True
    heads = sizes[family.attention.heads_field]
    groups = sizes.get(family.attention.groups_field or "", min(heads, 1))
    if heads == 0:  # it will get a group for each device
        return True
    return heads % devices == 0 and (groups % devices == 0 or devices % groups == 0)


def _write_code(config: Any, directory: Path) -> None:
    """Give a checkpoint this version's modeling file, since that of an older one may have no model for `AutoModel`."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.save_code(directory)
    changed = {"auto_map": model.config.auto_map, **_renamed(config)}
    write_json(directory / CONFIG, dict(sorted({**read_config(directory), **changed}.items())))


def _renamed(config: Any) -> dict[str, float]:
    """What vLLM's Transformers backend (0.32) reads under another name: Granite divides logits."""
    scaling = getattr(config, "logits_scaling", None)
    return {"logit_scale": 1 / scaling} if scaling else {}
