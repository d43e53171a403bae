"""Checkpoints for mlx-lm, on Apple silicon."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bonsai_core import BonsaiError, Checkpoint, Exporter, Family, Shapes
from bonsai_plugins.exporters.files import CONFIG, OURS, as_stock, copy_files, read_config, write_json
from bonsai_plugins.exporters.runners import RUNNERS

MODEL_FILE = Path(__file__).parent / "mlx_model.py"
FREE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "phi3", "smollm3")
"""Model types whose layers may differ in width."""
RESIZED = (*FREE, "mixtral")
"""Model types that `mlx_model.py` gives other numbers of heads than mlx-lm would."""
STOCK = (*RESIZED, "qwen3_moe", "olmo2", "olmoe", "phi", "stablelm")
"""Model types that mlx-lm was seen to compute as transformers does."""
READ_HEAD_DIM = ("llama", "mistral", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "qwen3_moe", "olmoe")
"""Model types whose size of a head mlx-lm reads in config.json; elsewhere it is hidden size / heads."""
ALWAYS_TIED = ("gemma", "gemma2")
"""Model types whose embeddings mlx-lm always uses as the output projection too."""
PATTERNED = ("gemma3_text",)
"""Model types in which mlx-lm gives every n-th layer full attention and the others a window."""
ROUNDED = ("gemma", "gemma3_text")
"""Model types in which mlx-lm rounds differently: a GELU that is not approximated, an embedding scale in bfloat16."""
UNUSED = (*OURS, "model_file")
"""Keys of config.json that are not for mlx-lm, or name code that came with the checkpoint."""


class Mlx(Exporter):
    """A directory that mlx-lm loads, where layers differ in width with a model file of its own."""

    name: ClassVar[str] = "mlx"
    runtime: ClassVar[str] = "mlx-lm"
    runner: ClassVar[Path | None] = RUNNERS / "mlx_runner.py"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        kind = checkpoint.model_type
        if not checkpoint.stock and kind in STOCK and kind not in FREE:
            return f"it has no layers that differ in width for the type {kind}. Prune with --shapes uniform."
        reason = _refusal(checkpoint.config, kind)
        if reason is None and _needs_model_file(checkpoint) and kind not in RESIZED:
            return f"mlx-lm takes hidden size / heads for the size of a head of {kind}, and this model has another."
        return reason

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        copy_files(checkpoint.path, out)
        for code in out.glob("modeling_*.py"):
            code.unlink()
        values = _values(checkpoint)
        if checkpoint.model_type in PATTERNED:
            values["sliding_window_pattern"] = _period(checkpoint.config.layer_types)
        if _needs_model_file(checkpoint):
            shutil.copyfile(MODEL_FILE, out / MODEL_FILE.name)
            values |= {"model_file": MODEL_FILE.name, "bonsai": _sizes(checkpoint)}
            if checkpoint.model_type not in READ_HEAD_DIM:  # its size of a head follows from this number
                values["num_attention_heads"] = checkpoint.config.hidden_size // _head_dim(checkpoint.config)
        write_json(out / CONFIG, values)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        trusted = " --trust-remote-code" if _needs_model_file(checkpoint) else ""
        model = shlex.quote(str(out))
        return [f'mlx_lm.generate --model {model}{trusted} --prompt "The history of the bicycle"']

    def shapes(self, config: Any, family: Family) -> Shapes:
        kind = config.model_type
        reason = _refusal(config, kind)
        if reason is not None:
            raise BonsaiError(f"mlx-lm cannot take this model, pruned or not: {reason}")
        heads_stay = kind not in RESIZED and kind not in READ_HEAD_DIM
        excluded = (*(("attention", "query") if heads_stay else ()), *(("layer",) if kind in PATTERNED else ()))
        return Shapes(uniform=kind not in FREE, excluded=excluded)

    def tolerance(self, checkpoint: Checkpoint) -> float | None:
        return 2e-2 if checkpoint.model_type in ROUNDED else 1e-3


def _head_dim(config: Any) -> int:
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def _refusal(config: Any, kind: str) -> str | None:
    """Why mlx-lm takes no model with this configuration, whatever its widths; None if it does."""
    if getattr(config, "quantization_config", None):
        return (
            "its weights are quantised already. Export the model from before that, and quantise what is exported with "
            "mlx_lm.convert."
        )
    if kind not in STOCK:
        return f"it is known to compute only {', '.join(STOCK)} as transformers does, and this is {kind}."
    if kind in ALWAYS_TIED and not config.tie_word_embeddings:
        return f"models of type {kind} have one matrix for embeddings and outputs in mlx-lm, and this one has two."
    if kind not in READ_HEAD_DIM and config.hidden_size % _head_dim(config):
        return f"its hidden size is not a multiple of the size of a head, as mlx-lm needs it for the type {kind}."
    return _refused_attention(config, kind)


def _refused_attention(config: Any, kind: str) -> str | None:
    """Why mlx-lm would attend to other tokens or positions; None if it would not."""
    window, layers = getattr(config, "sliding_window", None), getattr(config, "layer_types", None) or ()
    limited = window is not None and window < config.max_position_embeddings
    if kind in PATTERNED:
        if _period(layers) is None:
            return "mlx-lm gives a window to all layers but every n-th, and this model does not."
    elif limited and (not layers or "sliding_attention" in layers):
        return (
            f"its attention looks back over at most {window} tokens in some layers, and in mlx-lm over all of them. "
            f"For texts that are not longer, remove the window from the checkpoint's config.json first."
        )
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        return "its positions are scaled by length (longrope), and mlx-lm always scales them as for long texts."
    return None


def _period(layer_types: Sequence[str]) -> int | None:
    """n, if every n-th layer has full attention and no other has; None if there is no such n."""
    full = [number for number, kind in enumerate(layer_types, 1) if kind == "full_attention"]
    return full[0] if full and full == list(range(full[0], len(layer_types) + 1, full[0])) else None


def _needs_model_file(checkpoint: Checkpoint) -> bool:
    """Whether mlx-lm's own classes would build other sizes."""
    config = checkpoint.config
    derived = config.hidden_size // config.num_attention_heads
    return not checkpoint.stock or (checkpoint.model_type not in READ_HEAD_DIM and _head_dim(config) != derived)


def _values(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json for mlx-lm, whose defaults are not always those of transformers: every field is written."""
    from bonsai_core import with_older_keys  # not above: it loads torch, which listings do without

    config = checkpoint.config
    values = {**json.loads(config.to_json_string(use_diff=False)), **read_config(checkpoint.path)}
    values = with_older_keys({name: value for name, value in values.items() if name not in UNUSED}, type(config))
    return as_stock(values, checkpoint.model_type) | {"tie_word_embeddings": config.tie_word_embeddings}


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `mlx_model.py` reads."""
    family, config = checkpoint.family, checkpoint.config
    assert family is not None
    layers = []
    for sizes in checkpoint.layers:
        layer = {"heads": sizes["num_attention_heads"], "groups": sizes["num_key_value_heads"]}
        if family.experts is None:
            layer["width"] = sizes[family.mlp.width_field]
        layers.append(layer)
    return {
        "head_dim": _head_dim(config),
        "layers": layers,
        "added_biases": list(getattr(config, "added_biases", ())),
    }
