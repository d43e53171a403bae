"""The same trained weights laid out as LLaMA, Mistral, Qwen2 and Phi-3 have them, pruned side by side.

    python benchmarks/layouts.py runs/models/demo-mha --dataset wikitext2-calibration.txt \
        --eval-dataset wikitext2-eval.txt

Qwen2 has biases on queries, keys and values, which are zero here; Phi-3 has q, k, v in one linear, and gate and up in
another. All compute the same function, so priors, importances, removed units and perplexities should be the same up to
rounding. In Qwen2 the biases go with a head, so that the same number of parameters may be other units; `--units mlp`
leaves heads alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from bonsai_core import RunConfig, run

SAME = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
    "rms_norm_eps",
    "rope_parameters",
]
LAYOUTS = ("llama", "mistral", "qwen2", "phi3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="A LLaMA.")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--eval-dataset", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/layouts"))
    parser.add_argument("--sparsity", type=float, default=0.1)
    parser.add_argument("--submodels", type=int, default=40)
    parser.add_argument("--units", default="attention,mlp")
    args = parser.parse_args()
    llama = AutoModelForCausalLM.from_pretrained(args.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    print("| layout | perplexity | units kept differently from LLaMA | largest relative difference of importances |")
    print("| --- | ---: | ---: | ---: |")
    first: tuple[Any, Any] | None = None
    for layout in LAYOUTS:
        parent = args.out / f"{layout}-dense"
        other = laid_out_as(layout, llama)
        other.save_pretrained(parent)
        tokenizer.save_pretrained(parent)
        config = RunConfig(
            model=str(parent),
            dataset=args.dataset,
            eval_dataset=args.eval_dataset,
            sparsity=args.sparsity * decoder_parameters(llama) / decoder_parameters(other),
            submodels=args.submodels,
            units=tuple(args.units.split(",")),
            latency=False,
            out=args.out / layout,
        )
        # transformers would read these files with the tokenizer class of Qwen2, which splits text differently.
        with patch("bonsai_core.engine.setup.load_tokenizer", lambda *_, **__: tokenizer):
            report = run(config).report
        kept = json.loads((args.out / layout / "model" / "bonsai.json").read_text(encoding="utf-8"))["kept_units"]
        with np.load(args.out / layout / "round-001" / "selection.npz") as arrays:
            importance_U = arrays["importance_U"]
        first = first or (kept, importance_U)
        others = sum(len(set(first[0][site]) ^ set(units)) for site, units in kept.items())
        scale = np.nanmax(np.abs(first[1]))
        difference = np.nanmax(np.abs(importance_U - first[1])) / scale
        print(f"| {layout} | {report['perplexity']['pruned']:.4f} | {others} | {difference:.1e} |", flush=True)


def laid_out_as(model_type: str, llama: Any) -> Any:
    """A model of another type that computes the same."""
    values = {name: getattr(llama.config, name) for name in SAME}
    if model_type != "llama":
        values |= {"pad_token_id": 0, "sliding_window": None}
    other = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**values), dtype=llama.dtype)
    weights: dict[str, Tensor] = dict(llama.state_dict())
    for index in range(llama.config.num_hidden_layers):
        attention, mlp = f"model.layers.{index}.self_attn", f"model.layers.{index}.mlp"
        if model_type == "phi3":
            _fuse(weights, attention, ("q_proj", "k_proj", "v_proj"), "qkv_proj")
            _fuse(weights, mlp, ("gate_proj", "up_proj"), "gate_up_proj")
        if model_type == "qwen2":
            for name in ("q_proj", "k_proj", "v_proj"):
                rows = weights[f"{attention}.{name}.weight"]
                weights[f"{attention}.{name}.bias"] = rows.new_zeros(len(rows))
    other.load_state_dict(weights)
    return other.eval()


def decoder_parameters(model: Any) -> int:
    """Of all decoder layers, biases included."""
    return sum(parameter.numel() for parameter in model.model.layers.parameters())


def _fuse(weights: dict[str, Tensor], module: str, parts: tuple[str, ...], fused: str) -> None:
    weights[f"{module}.{fused}.weight"] = torch.cat([weights.pop(f"{module}.{part}.weight") for part in parts])


if __name__ == "__main__":
    main()
