"""Which parameters are trained, and how adapters are merged into the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.upstream import peft_warnings_ignored


def prepare(model: Any, family: Family | None, config: AdaptConfig) -> nn.Module:
    """The model as it is trained: with adapters, or all its weights.

    `lora` is Hu et al. 2021 (arXiv:2106.09685) on all linears but the head, and on experts. `scales` is Liu et al. 2022
    ((IA)^3, arXiv:2205.05638) on what the output projections of attentions and MLPs read: one number per MLP channel,
    and one per channel of a head.

    Args:
        model: a causal LM; the result shares its weights.

    Raises:
        BonsaiError: nothing in the model can be trained this way.
    """
    from peft import IA3Config, LoraConfig, get_peft_model

    if config.method == "full":
        return model.requires_grad_(True)  # type: ignore[no-any-return]
    if config.method == "lora":
        experts = family.experts if family is not None else None
        adapters: Any = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha or 2 * config.lora_rank,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            # Experts are parameters, not linears.
            target_parameters=[f"{experts.module}.{name}" for name in experts.weights] if experts else None,
            task_type="CAUSAL_LM",
        )
    else:
        outputs = _output_projections(model, family)
        adapters = IA3Config(target_modules=outputs, feedforward_modules=outputs, task_type="CAUSAL_LM")
    gpus = [model.device] if model.device.type == "cuda" else None
    with torch.random.fork_rng(gpus), peft_warnings_ignored():
        torch.manual_seed(config.seed)
        return get_peft_model(model, adapters)  # type: ignore[no-any-return]


def causal_lm(trained: nn.Module) -> Any:
    """The causal LM itself, with adapters in its linears."""
    from peft import PeftModel

    return trained.get_base_model() if isinstance(trained, PeftModel) else trained


def merge(trained: nn.Module) -> Any:
    """The causal LM, with its adapters merged into its weights."""
    from peft import PeftModel

    return trained.merge_and_unload() if isinstance(trained, PeftModel) else trained


def _output_projections(model: Any, family: Family | None) -> list[str]:
    assert family is not None  # checked by `plan_curriculum`
    sites = [site for site in (family.attention, family.mlp) if site is not None]
    names = [site.path(site.output) for site in sites]
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    present = [name for name in names if any(linear.endswith(f".{name}") for linear in linears)]
    if not present:
        raise BonsaiError(f"This model has none of {', '.join(names)}, so there is nothing to scale. Use lora or full.")
    return present
