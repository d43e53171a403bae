"""The paper's own settings."""

from bonsai_core import Recipe

PAPER = Recipe(
    name="paper",
    summary="Bonsai as published (Dery et al. 2024, arXiv:2402.05406): units regressed one by one on perplexity.",
    settings={
        "prior": "wanda",
        "sampler": {"name": "antithetic", "level": "unit"},
        "metric": "perplexity",
        "estimator": {"name": "ridge", "towards": "zero"},
        "compensator": "none",
        "rank": "importance",
        "round_fraction": 0.05,
        "submodels": 200,
        "samples": 32,
        "prior_samples": 32,
        "sequence_length": 128,
        "round_to": 1,
        "resample": "fresh",
    },
)
