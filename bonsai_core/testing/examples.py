"""A small unit table with everything that real ones have: costly KV groups, cheap channels, tiny sites; and a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_core.units import Site, SiteKind, UnitTable

GROUP_PARAMS, CHANNEL_PARAMS, FIXED_PARAMS, EMBEDDINGS = 640, 96, 64, 5000


def example_table(
    num_layers: int = 4, num_groups: int = 4, width: int = 24, *, layers_leave: bool = False
) -> UnitTable:
    """Attention and MLP of `num_layers` layers, whose norms cost `FIXED_PARAMS` each."""
    sizes: list[tuple[SiteKind, int, int, int]] = [
        ("attention", num_groups, GROUP_PARAMS, 8),
        ("mlp", width, CHANNEL_PARAMS, 1),
    ]
    sizes += [("layer", 1, FIXED_PARAMS, 0)] if layers_leave else []
    sites: list[Site] = []
    for layer in range(num_layers):
        for kind, num_units, params, channels in sizes:
            name = f"layers.{layer}" if kind == "layer" else f"layers.{layer}.{kind}"
            first = sites[-1].units.stop if sites else 0
            sites.append(Site(name, layer, kind, first, num_units, params, channels))
    decoder = num_layers * (num_groups * GROUP_PARAMS + width * CHANNEL_PARAMS + FIXED_PARAMS)
    return UnitTable(tuple(sites), decoder, decoder + EMBEDDINGS)


def save_example(folder: Path) -> Any:
    """Save a tiny LLaMA with random weights and a tokenizer of bytes.

    Returns:
        Its configuration.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw: Any = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone, which is what is restored
        LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    return config
