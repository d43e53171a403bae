"""One-shot baselines of the literature, by the same engine: a prior and an allocation, no sub-model measured.

All see 64 windows of 256 tokens; `--prior-samples` and `--sequence-length` change that.
"""

from typing import Any

from bonsai_core import Recipe

ONE_SHOT: dict[str, Any] = {
    "round_fraction": 1.0,
    "prior_samples": 64,
    "sequence_length": 256,
    "compensator": "none",
    "round_to": 1,
}

WANDA_SP = Recipe(
    name="wanda-sp",
    summary="Wanda for structures, the same share of every site (Sun et al. 2023, An et al. 2023).",
    settings={**ONE_SHOT, "prior": "wanda", "estimator": "none"},
)
FLAP = Recipe(
    name="flap",
    summary="Standardised fluctuation, compared globally, and bias repair (An et al. 2023, arXiv:2312.11983).",
    settings={
        **ONE_SHOT,
        "prior": {"name": "fluctuation", "standardised": True},
        "estimator": {"name": "none", "allocation": "global"},
        "rank": "importance",
        "compensator": "bias",
    },
)
MAGNITUDE = Recipe(
    name="magnitude",
    summary="Smallest weights first, the same share of every site; no data (Li et al. 2016).",
    settings={**ONE_SHOT, "prior": "magnitude", "estimator": "none"},
)
RANDOM = Recipe(
    name="random",
    summary="Random units, the same share of every site: the floor.",
    settings={**ONE_SHOT, "prior": "random", "estimator": "none"},
)
SHORTGPT = Recipe(
    name="shortgpt",
    summary="Whole layers by block influence; the last one goes in part, to meet the budget (Men et al. 2024).",
    settings={
        **ONE_SHOT,
        "prior": "block-influence",
        "estimator": {"name": "none", "allocation": "global"},
        "rank": "importance",
        "min_units": 0,
    },
)
