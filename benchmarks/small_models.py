"""Trains a small model of a family for a few minutes, then prunes it in several ways, side by side.

    python benchmarks/small_models.py phi wikitext2-calibration.txt wikitext2-eval.txt

Phi's decoder layer has attention and MLP in parallel on one norm, biases everywhere and partial rotary embeddings;
Mixtral's has a mixture of eight experts, of which a token is sent to two, trained with its load-balancing loss. The
models (4 layers of 256, Mixtral's of 128; a vocabulary of 1,024) are trained on the calibration text alone.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, MixtralConfig, PhiConfig, PreTrainedTokenizerFast

from bonsai_core import RunConfig, run

VOCABULARY, SEQUENCE, BATCH, PEAK_RATE, WARM_UP = 1024, 128, 16, 3e-3, 0.05
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 2 * SEQUENCE,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CONFIGS: dict[str, Any] = {
    "phi": PhiConfig(intermediate_size=1024, partial_rotary_factor=0.5, **COMMON),
    "mixtral": MixtralConfig(
        **{**COMMON, "hidden_size": 128},
        intermediate_size=256,
        num_local_experts=8,
        num_key_value_heads=4,
        router_aux_loss_coef=0.02,
    ),
}
ONE_SHOT = {"estimator": "none", "compensator": "none"}
PLAIN: dict[str, dict[str, Any]] = {
    "default": {},
    "nothing repaired": {"compensator": "none"},
    "wanda, equal cut": {"prior": "wanda", **ONE_SHOT},
    "random": {"prior": "random", **ONE_SHOT},
}
EXPERTS, WIDTHS = {"units": ("experts",)}, {"units": ("expert_width",)}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "phi": PLAIN,
    "mixtral": {
        "experts": EXPERTS,
        "experts, stock": {"shapes": "uniform", **EXPERTS},
        "experts, regression on reap": {"prior": "reap", **EXPERTS},
        "experts, reap, equal cut": {"prior": "reap", **ONE_SHOT, **EXPERTS},
        "experts, frequency, equal cut": {"prior": "frequency", **ONE_SHOT, **EXPERTS},
        "experts, random": {"prior": "random", **ONE_SHOT, **EXPERTS},
        "widths": WIDTHS,
        "widths, wanda, equal cut": {"prior": "wanda", **ONE_SHOT, **WIDTHS},
        "widths, random": {"prior": "random", **ONE_SHOT, **WIDTHS},
        "attention and widths": {"units": ("attention", "expert_width")},
        "attention and experts": {},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=CONFIGS)
    parser.add_argument("text")
    parser.add_argument("eval_text")
    parser.add_argument("--minutes", type=float, default=5.0, help="of processor time, one thread, for the training")
    parser.add_argument("--arms", nargs="+", help="all of them, unless named")
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/small"))
    args = parser.parse_args()
    args.out /= args.family
    parent = args.out / "dense"
    if not (parent / "config.json").is_file():
        train(CONFIGS[args.family], Path(args.text).read_text(encoding="utf-8"), args.minutes * 60, parent)
    print(f"| arm | perplexity at {args.sparsity:.0%}, mean ± sd | per seed | gone, % |")
    print("| --- | ---: | ---: | ---: |")
    arms = ARMS[args.family]
    for number, arm in enumerate(args.arms or arms):
        reports = [_pruned(args, parent, arm, seed, arms[arm]) for seed in args.seeds]
        if number == 0:
            print(f"| dense | {reports[0]['perplexity']['dense']:.2f} | | |")
        pruned = [report["perplexity"]["pruned"] for report in reports]
        gone = np.mean([report["sparsity"]["decoder"] for report in reports])
        each = ", ".join(f"{value:.2f}" for value in pruned)
        spread = np.std(pruned, ddof=len(pruned) > 1)
        print(f"| {arm} | {np.mean(pruned):.2f} ± {spread:.2f} | {each} | {100 * gone:.1f} |", flush=True)


def _pruned(args: argparse.Namespace, parent: Path, arm: str, seed: int, settings: dict[str, Any]) -> Any:
    values = {
        "model": str(parent),
        "dataset": args.text,
        "eval_dataset": args.eval_text,
        "sparsity": args.sparsity,
        "seed": seed,
        "latency": False,
        "eval_samples": 64,
        "eval_sequence_length": SEQUENCE,
        "out": args.out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}",
        **settings,
    }
    return run(RunConfig(**values)).report


def train(config: Any, text: str, seconds: float, directory: Path) -> None:
    """Train from scratch for some seconds of processor time; model and tokenizer are saved.

    Mixtures are trained with their load-balancing loss, so that every expert gets tokens and learns something.
    """
    tokenizer = byte_level_tokenizer(text)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.1)
    balanced = {"output_router_logits": True} if hasattr(config, "router_aux_loss_coef") else {}
    start, step, done = time.process_time(), 0, 0.0
    while done < 1:
        begins = torch.randint(len(ids) - SEQUENCE, (BATCH,)).tolist()
        batch = torch.stack([ids[begin : begin + SEQUENCE] for begin in begins])
        rate = PEAK_RATE * min(done / WARM_UP, 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, 1e-6)
        loss = model(batch, labels=batch, use_cache=False, **balanced).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, done = step + 1, (time.process_time() - start) / seconds
        if step % 200 == 0:
            print(f"step {step}, {done:.0%}, loss {loss.item():.3f}", flush=True)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    print(f"{directory}: {sum(p.numel() for p in model.parameters()):,} parameters, {step * BATCH * SEQUENCE:,} tokens")


def byte_level_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on a text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        text.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")


if __name__ == "__main__":
    main()
