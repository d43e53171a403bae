"""Bonsai: structured pruning of large language models with forward passes only.

The names below are the public surface, and what a plugin may import. They load on first use, so that importing
`bonsai_core` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bonsai_core.adaptation.config import AdaptConfig
    from bonsai_core.adaptation.lifecycle import AdaptResult, adapt, resume_adaptation
    from bonsai_core.config import RunConfig
    from bonsai_core.contracts import (
        Answers,
        AttentionSite,
        ChoiceMetric,
        Compensator,
        Component,
        DenseTokens,
        Draw,
        Estimator,
        Evidence,
        ExpertsSite,
        Family,
        Fit,
        Measurements,
        Metric,
        MlpSite,
        Prior,
        Probe,
        Recipe,
        Removal,
        Repair,
        Sampler,
        SampleRequest,
        SiteView,
        TokenMetric,
        perplexity_of,
        token_kl,
        token_nll,
    )
    from bonsai_core.engine import resume, run
    from bonsai_core.errors import BonsaiError
    from bonsai_core.evaluation.compare import evaluate
    from bonsai_core.evaluation.config import EvalConfig
    from bonsai_core.hookspecs import hookimpl
    from bonsai_core.model.loading.load import load_model
    from bonsai_core.model.loading.lookup import register_checkpoints
    from bonsai_core.registry.registry import Registry
    from bonsai_core.units import UnitTable

__version__ = "0.1.0"

_HOMES = {
    "AdaptConfig": "adaptation.config",
    "AdaptResult": "adaptation.lifecycle",
    "Answers": "contracts",
    "AttentionSite": "contracts",
    "BonsaiError": "errors",
    "ChoiceMetric": "contracts",
    "Compensator": "contracts",
    "Component": "contracts",
    "DenseTokens": "contracts",
    "Draw": "contracts",
    "Estimator": "contracts",
    "EvalConfig": "evaluation.config",
    "Evidence": "contracts",
    "ExpertsSite": "contracts",
    "Family": "contracts",
    "Fit": "contracts",
    "Measurements": "contracts",
    "Metric": "contracts",
    "MlpSite": "contracts",
    "Prior": "contracts",
    "Probe": "contracts",
    "Recipe": "contracts",
    "Registry": "registry.registry",
    "Removal": "contracts",
    "Repair": "contracts",
    "RunConfig": "config",
    "SampleRequest": "contracts",
    "Sampler": "contracts",
    "SiteView": "contracts",
    "TokenMetric": "contracts",
    "UnitTable": "units",
    "adapt": "adaptation.lifecycle",
    "evaluate": "evaluation.compare",
    "hookimpl": "hookspecs",
    "load_model": "model.loading.load",
    "perplexity_of": "contracts",
    "register_checkpoints": "model.loading.lookup",
    "resume": "engine",
    "resume_adaptation": "adaptation.lifecycle",
    "run": "engine",
    "token_kl": "contracts",
    "token_nll": "contracts",
}
__all__ = [
    "AdaptConfig",
    "AdaptResult",
    "Answers",
    "AttentionSite",
    "BonsaiError",
    "ChoiceMetric",
    "Compensator",
    "Component",
    "DenseTokens",
    "Draw",
    "Estimator",
    "EvalConfig",
    "Evidence",
    "ExpertsSite",
    "Family",
    "Fit",
    "Measurements",
    "Metric",
    "MlpSite",
    "Prior",
    "Probe",
    "Recipe",
    "Registry",
    "Removal",
    "Repair",
    "RunConfig",
    "SampleRequest",
    "Sampler",
    "SiteView",
    "TokenMetric",
    "UnitTable",
    "adapt",
    "evaluate",
    "hookimpl",
    "load_model",
    "perplexity_of",
    "register_checkpoints",
    "resume",
    "resume_adaptation",
    "run",
    "token_kl",
    "token_nll",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
