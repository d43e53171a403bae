"""Write the demo model as multi-head LLaMA: the same function, keys and values repeated for every query head.

    python benchmarks/demo_mha.py runs/models/demo-mha

The demo model shares each key and value head among three query heads; repeated, its weights are a LLaMA without
grouped-query attention, like the models of the paper, with 119,473,920 decoder parameters and 9 heads a layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bonsai_core.sources import demo_model_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    source = demo_model_dir()
    grouped = AutoModelForCausalLM.from_pretrained(source).eval()
    multi_head = multi_head_llama(grouped)
    ids = torch.arange(64)[None]
    with torch.inference_mode():
        torch.testing.assert_close(multi_head(ids).logits, grouped(ids).logits, rtol=0, atol=1e-3)
    multi_head.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    print(f"{directory}: {sum(p.numel() for p in multi_head.parameters()):,} parameters")


def multi_head_llama(grouped: LlamaForCausalLM) -> LlamaForCausalLM:
    """A LLaMA with one key and one value head per query head that computes the same."""
    values = grouped.config.to_dict()
    heads, groups = values["num_attention_heads"], values["num_key_value_heads"]
    values["num_key_value_heads"] = heads
    with torch.device("meta"):
        multi_head = LlamaForCausalLM(LlamaConfig.from_dict(values))
    weights = {
        name: _repeated(weight, groups, heads // groups)
        if name.endswith(("k_proj.weight", "v_proj.weight"))
        else weight
        for name, weight in grouped.state_dict().items()
    }
    multi_head.load_state_dict(weights, assign=True)
    multi_head.tie_weights()
    multi_head.model.rotary_emb = grouped.model.rotary_emb  # its buffers are not in the state dict
    multi_head.generation_config = grouped.generation_config
    return multi_head.eval()


def _repeated(weight: Tensor, groups: int, times: int) -> nn.Parameter:
    """[groups * head_dim, hidden] -> [groups * times * head_dim, hidden]: every head `times` times in a row."""
    heads = weight.view(groups, -1, weight.shape[1])
    return nn.Parameter(heads.repeat_interleave(times, dim=0).flatten(0, 1), requires_grad=False)


if __name__ == "__main__":
    main()
