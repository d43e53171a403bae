"""Which checkpoints llama.cpp computes as transformers does, and why not the others."""

from __future__ import annotations

from typing import Any

from bonsai_core import Checkpoint
from bonsai_plugins.exporters.gguf_architectures import FREE

SILU = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3")
"""Model types whose MLPs have SiLU in llama.cpp, whatever their configuration says."""
WINDOWS = {"gemma2": (2, 46), "gemma3_text": (6, 62)}
"""Model types of which llama.cpp takes every n-th layer for one without a sliding window, and the number of layers
by which it knows the largest model, whose queries are scaled otherwise."""
PERIODIC = (*WINDOWS, "smollm3")
"""Model types of which llama.cpp takes every n-th layer for another kind, so that none may leave."""
STOCK = (*SILU, *PERIODIC, "gemma", "granite", "olmo2", "olmoe", "stablelm")
"""Model types whose stock checkpoints were compared with transformers, in b9190."""
NO_LAYERS = "Prune with units other than layer."
UNIFORM = "Prune with --shapes uniform, or with --for llama.cpp, for what it can take."


def refusal(checkpoint: Checkpoint) -> str | None:
    """Why it cannot be written, as a sentence that says what would help; None if it can."""
    config, kind = checkpoint.config, checkpoint.model_type
    if checkpoint.stock:
        return _why_not_stock(config, kind)
    reason = why_not_free(config, kind)
    return None if reason is None else f"its layers differ in size, and {reason}. {UNIFORM}"


def why_not_free(config: Any, kind: str) -> str | None:
    """Why layers of this model type must all have one size, as half a sentence; None if they may differ.

    Args:
        config: of the dense model, or of a pruned one.
    """
    if kind not in FREE:
        return f"no architecture of llama.cpp takes that for the model type {kind} (only for {', '.join(sorted(FREE))})"
    architecture = FREE[kind]
    named = f"the one that takes that for {kind} ({architecture.name})"
    if config.hidden_act not in ("silu", "swish"):
        return f"{named} has no activation function {config.hidden_act}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"{named} has no sliding window (sliding_window is {config.sliding_window})"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in architecture.rope:
        return f"{named} has no rotary embeddings of the type {rope}"
    if architecture.tied and not config.tie_word_embeddings:
        return f"{named} wants the output embeddings to be the input embeddings (tie_word_embeddings)"
    if not architecture.biases and (getattr(config, "attention_bias", False) or getattr(config, "added_biases", ())):
        return f"{named} has no biases"
    return None


def _why_not_stock(config: Any, kind: str) -> str | None:
    if kind not in STOCK:
        same = ", ".join(sorted(STOCK))
        return f"models of the type {kind} were not compared with transformers there (those that were: {same})."
    if kind in SILU and config.hidden_act not in ("silu", "swish"):
        return f"it computes {kind} with SiLU, whatever the configuration says (hidden_act is {config.hidden_act})."
    if getattr(config, "mlp_only_layers", None):
        return f"every layer of {kind} is a mixture there (mlp_only_layers is {config.mlp_only_layers})."
    if kind == "smollm3" and config.no_rope_layers != [int((n + 1) % 4 > 0) for n in range(config.num_hidden_layers)]:
        return "every 4th layer is one without rotary embeddings there, and no_rope_layers says otherwise. " + NO_LAYERS
    return _why_not_windows(config, *WINDOWS[kind]) if kind in WINDOWS else None


def _why_not_windows(config: Any, period: int, largest: int) -> str | None:
    """llama.cpp derives two things from the shape of Gemma 2 and 3 that their configurations say."""
    taken = ["sliding_attention" if (n + 1) % period else "full_attention" for n in range(config.num_hidden_layers)]
    if config.layer_types != taken:
        return (
            f"every n-th layer (n = {period}) is one without a sliding window there, and layer_types says otherwise. "
            f"{NO_LAYERS}"
        )
    by_hidden = config.num_hidden_layers == largest
    scale = config.hidden_size // config.num_attention_heads if by_hidden else config.head_dim
    if config.query_pre_attn_scalar != scale:
        return (
            f"it takes {scale} for query_pre_attn_scalar, which is {config.query_pre_attn_scalar}. Prune with --units "
            f"mlp, which leaves the numbers of heads and layers."
        )
    return None
