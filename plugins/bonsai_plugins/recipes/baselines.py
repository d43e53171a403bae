"""One-shot baselines of the literature, by the same engine: a prior and an allocation, no sub-model measured.

All see 64 windows of 256 tokens; `--prior-samples` and `--sequence-length` change that.
"""

from typing import Any

from bonsai_core import Recipe

GROUP = "Literature: baselines"
MEASURED = (
    "SmolLM2-135M-Instruct as multi-head LLaMA, calibrated on WikiText-2 validation, perplexity on 12 windows of 1,024 "
    "tokens of its test split (dense: 25.9), float32, 2 CPU cores, seed 0, one run, 2026-11-25 (benchmarks/README.md)."
)
ONE_SHOT: dict[str, Any] = {
    "round_fraction": 1.0,
    "prior_samples": 64,
    "sequence_length": 256,
    "compensator": "none",
    "round_to": 1,
}

WANDA_SP = Recipe(
    name="wanda-sp",
    group=GROUP,
    summary="Wanda for structures, the same share of every site.",
    settings={**ONE_SHOT, "prior": "wanda", "estimator": "none"},
    cost="59 s: 135M, 2 CPU cores",
    gives="perplexity 60.3 (20 %), 754 (50 %); dense 25.9",
    measured=MEASURED,
    source="Sun et al. 2023, arXiv:2306.11695; for structures An et al. 2023, arXiv:2312.11983.",
)
FLAP = Recipe(
    name="flap",
    group=GROUP,
    summary="Standardised fluctuation, compared globally, and bias repair.",
    settings={
        **ONE_SHOT,
        "prior": {"name": "fluctuation", "standardised": True},
        "estimator": {"name": "none", "allocation": "global"},
        "rank": "importance",
        "compensator": "bias",
    },
    cost="85 s to 2 min: 135M, 2 CPU cores",
    gives="perplexity 48.6 (20 %), 668 (50 %); dense 25.9",
    measured=MEASURED,
    source="An et al. 2023, arXiv:2312.11983.",
)
MAGNITUDE = Recipe(
    name="magnitude",
    group=GROUP,
    summary="Smallest weights first, the same share of every site; no data.",
    settings={**ONE_SHOT, "prior": "magnitude", "estimator": "none"},
    cost="next to nothing",
    gives="perplexity 9 million (20 %); dense 25.9",
    measured=MEASURED,
    source="Li et al. 2016, arXiv:1608.08710.",
)
RANDOM = Recipe(
    name="random",
    group=GROUP,
    summary="Random units, the same share of every site: the floor.",
    settings={**ONE_SHOT, "prior": "random", "estimator": "none"},
    cost="nothing",
    gives="perplexity 605 (20 %), 366,395 (50 %); dense 25.9",
    measured=MEASURED,
)
SHORTGPT = Recipe(
    name="shortgpt",
    group=GROUP,
    summary="Whole layers by block influence, the last in part.",
    settings={
        **ONE_SHOT,
        "prior": "block-influence",
        "estimator": {"name": "none", "allocation": "global"},
        "rank": "importance",
        "min_units": 0,
    },
    cost="54 s: 135M, 2 CPU cores",
    gives="perplexity 73.6 (20 %), 15,569 (50 %); dense 25.9",
    measured=MEASURED,
    source="Men et al. 2024, arXiv:2403.03853.",
)
