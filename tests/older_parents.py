"""Tiny models as transformers 4 and 5 write them, and what each reads of a checkpoint.

Imported by tests, and run as a script by the transformers of another folder (`PYTHONPATH`): it knows nothing of Bonsai.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

IS_OLD = transformers.__version__.startswith("4.")
LAYERS, LONGEST = 5, 64
TEXT = "The quick brown fox jumps over <mark> the lazy dog, twice."
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LONGROPE = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
# Of each model type: the base of its rotary embeddings, their scaling, other fields.
MODELS: dict[str, tuple[str, float, Any, dict[str, Any]]] = {
    "llama3": ("llama", 5e5, LLAMA3, {"head_dim": 8}),
    "gemma3": ("gemma3_text", 1e6, {"rope_type": "linear", "factor": 8.0}, {"head_dim": 8, "sliding_window": 6}),
    "qwen2": ("qwen2", 1e6, None, {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 3}),
    "phi3": ("phi3", 2e4, None, {"pad_token_id": 0}),
    "phi3-long": ("phi3", 2e4, "longrope", {"pad_token_id": 0, "original_max_position_embeddings": 32}),
    "smollm3": ("smollm3", 2e6, None, {"pad_token_id": 0, "no_rope_layer_interval": 2}),
    "pythia": ("gpt_neox", 2e4, None, {}),
    "qwen3-moe": (
        "qwen3_moe",
        1e6,
        None,
        {
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [1],
        },
    ),
}


def config_of(name: str) -> Any:
    """The configuration of a model, by the names of this transformers."""
    model_type, base, scaling, options = MODELS[name]
    return CONFIG_MAPPING[model_type](
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        **(_old_rope if IS_OLD else _new_rope)(model_type, base, scaling),
        **options,
    )


def _old_rope(model_type: str, base: float, scaling: Any) -> dict[str, Any]:
    if scaling == "longrope":
        scaling = {"type": "longrope", **LONGROPE}
    if model_type == "gpt_neox":
        return {"rotary_emb_base": base, "rotary_pct": 0.5}
    pattern = {"rope_local_base_freq": 5e3, "sliding_window_pattern": 3} if model_type == "gemma3_text" else {}
    return {"rope_theta": base, "rope_scaling": scaling, **pattern}


def _new_rope(model_type: str, base: float, scaling: Any) -> dict[str, Any]:
    if scaling == "longrope":
        scaling = {"rope_type": "longrope", **LONGROPE}
    rope: dict[str, Any] = {"rope_theta": base, **(scaling or {"rope_type": "default"})}
    if model_type == "gpt_neox":
        rope["partial_rotary_factor"] = 0.5
    if model_type != "gemma3_text":
        return {"rope_parameters": rope}
    local = {"rope_theta": 5e3, "rope_type": "default"}
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * LAYERS
    return {
        "rope_parameters": {"full_attention": rope, "sliding_attention": local},
        "layer_types": kinds[:LAYERS],
    }


def tokenizer() -> Any:
    """A token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    extra = {"additional_special_tokens": ["<mark>"]}
    # Version 4 adds token types unless it is asked not to; version 5 does not.
    names: dict[str, Any] = {"model_input_names": ["input_ids", "attention_mask"]} if IS_OLD else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", **extra, **names)


def make(root: Path) -> None:
    """Write the models, each into a folder of its name."""
    for name in MODELS:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(name))
        for key, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in key else 0.0, std=0.2)
        model.save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)


@torch.no_grad()
def read(directory: Path) -> dict[str, torch.Tensor]:
    """What this transformers makes of a checkpoint: logits of the text, and how it goes on."""
    inputs = AutoTokenizer.from_pretrained(directory)(TEXT, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=True).eval()
    return {"logits": model(**inputs).logits, "text": model.generate(**inputs, do_sample=False, max_new_tokens=3)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, target, *directories = sys.argv[1:]
    if task == "make":
        make(Path(target))
    else:
        found: dict[str, torch.Tensor] = {}
        for folder in directories:
            try:
                found |= {f"{folder}:{key}": value for key, value in read(Path(folder)).items()}
            except ImportError as error:
                print(f"{folder}: {error}")
        save_file(found, target)
