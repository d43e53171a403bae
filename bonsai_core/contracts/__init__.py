"""The contracts between the engine and its plugins, one noun of the field per file."""

from bonsai_core.contracts.compensator import (
    Compensator,
    InputCompensator,
    MomentCompensator,
    Removal,
    Repair,
    TextCompensator,
    WeightCompensator,
)
from bonsai_core.contracts.component import Component
from bonsai_core.contracts.estimator import Estimator, Fit, Measurements
from bonsai_core.contracts.family import AttentionSite, ExpertsSite, Family, MlpSite
from bonsai_core.contracts.metric import (
    Answers,
    ChoiceMetric,
    DenseTokens,
    Metric,
    Probe,
    TokenMetric,
    perplexity_of,
    token_kl,
    token_nll,
)
from bonsai_core.contracts.prior import InputPrior, LayerPrior, MomentPrior, Prior, SiteView, TextPrior, WeightPrior
from bonsai_core.contracts.recipe import Recipe
from bonsai_core.contracts.sampler import Draw, Evidence, Sampler, SampleRequest
from bonsai_core.contracts.statistic import Statistic

__all__ = [
    "Answers",
    "AttentionSite",
    "ChoiceMetric",
    "Compensator",
    "Component",
    "DenseTokens",
    "Draw",
    "Estimator",
    "Evidence",
    "ExpertsSite",
    "Family",
    "Fit",
    "InputCompensator",
    "InputPrior",
    "LayerPrior",
    "Measurements",
    "Metric",
    "MlpSite",
    "MomentCompensator",
    "MomentPrior",
    "Prior",
    "Probe",
    "Recipe",
    "Removal",
    "Repair",
    "SampleRequest",
    "Sampler",
    "SiteView",
    "Statistic",
    "TextCompensator",
    "TextPrior",
    "TokenMetric",
    "WeightCompensator",
    "WeightPrior",
    "perplexity_of",
    "token_kl",
    "token_nll",
]
