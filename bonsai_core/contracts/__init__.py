"""The contracts between the engine and its plugins, one noun of the field per file."""

from bonsai_core.contracts.component import Component
from bonsai_core.contracts.estimator import Estimator, Fit, Measurements
from bonsai_core.contracts.family import AttentionSite, Family, MlpSite
from bonsai_core.contracts.metric import DenseTokens, Metric, perplexity_of, token_nll
from bonsai_core.contracts.prior import Prior, SiteView
from bonsai_core.contracts.sampler import Draw, Sampler, SampleRequest

__all__ = [
    "AttentionSite",
    "Component",
    "DenseTokens",
    "Draw",
    "Estimator",
    "Family",
    "Fit",
    "Measurements",
    "Metric",
    "MlpSite",
    "Prior",
    "SampleRequest",
    "Sampler",
    "SiteView",
    "perplexity_of",
    "token_nll",
]
