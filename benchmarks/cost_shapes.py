"""LLaMA-3 shapes, and models of them with random weights: for what weights cost, not for what they know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from small_models import VOCABULARY, byte_level_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from bonsai_core.model.storage.devices import find_device
from bonsai_core.sources import load_text

STD = 0.02


@dataclass(frozen=True)
class Shape:
    """A LLaMA, by the numbers of its configuration."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    vocabulary: int
    tied: bool = False

    @property
    def config(self) -> LlamaConfig:
        return LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.width,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            initializer_range=STD,
            bos_token_id=0,
            eos_token_id=0,
        )


SHAPES = {
    "pico": Shape(3, 32, 4, 2, 48, VOCABULARY),
    "1b": Shape(16, 2048, 32, 8, 8192, 128_256, tied=True),
    "8b": Shape(32, 4096, 32, 8, 14_336, 128_256),
}


def write_model(shape: Shape, dtype: str, folder: Path) -> None:
    """Write a model with random weights, made on the device, and a small tokenizer trained on the built-in text."""
    torch.manual_seed(0)
    with torch.device(find_device("auto")):
        model = AutoModelForCausalLM.from_config(shape.config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="2GB")
    byte_level_tokenizer(load_text("builtin")[0].text).save_pretrained(folder)
