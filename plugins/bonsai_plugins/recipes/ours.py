"""Our own recipes, by effort and quality."""

from bonsai_core import Recipe

EFFORT = "By effort"
WIKITEXT = (
    "SmolLM2-135M-Instruct as multi-head LLaMA, calibrated on WikiText-2 validation, perplexity on 12 windows of 1,024 "
    "tokens of its test split (dense: 25.9), float32, 2 CPU cores, seed 0, one run, 2026-11-25 (benchmarks/README.md)."
)

FAST = Recipe(
    name="fast",
    group=EFFORT,
    summary="A minute or two: two rounds to 50 %, few sub-models, little text.",
    settings={
        "round_fraction": 0.25,
        "min_rounds": 2,
        "submodels": 12,
        "samples": 1,
        "prior_samples": 12,
        "held_out_samples": 1,
    },
    cost="71 s: 135M parameters, 2 CPU cores",
    gives="perplexity 49.9 (20 %), 200 (50 %); dense 25.9",
    measured=WIKITEXT + " Much depends on the seed with this few sub-models.",
    source="Settings chosen for time, on held-out calibration text.",
)
DEFAULT = Recipe(
    name="default",
    group=EFFORT,
    summary="What runs without --config: one price per site, least-squares repair.",
    settings={},
    cost="15 min (50 %), 2.0 GB: 135M, 2 CPU cores",
    gives="perplexity 37.4 (20 %), 84.2 (50 %); dense 25.9",
    measured=WIKITEXT,
    source="Settings chosen on held-out calibration text.",
)
QUALITY = Recipe(
    name="quality",
    group=EFFORT,
    summary="Twice the sub-models, and on a CPU eight times the text.",
    settings={"prior_samples": 512, "submodels": 160},
    cost="several times as long as the default",
    gives="up to 3 % less perplexity than the default (50 %)",
    measured=WIKITEXT + " With 120 sub-models, 64 windows of text and a search, as the recipe then was.",
    source="The default's settings, with more of everything that is measured.",
)
DEPTH = Recipe(
    name="depth",
    group=EFFORT,
    summary="Whole layers alone: a stock checkpoint, the fastest at equal size.",
    settings={"units": ["layer"], "prior": "block-influence", "submodels": 40},
    cost="9 min (20 %): 135M, 1 CPU core",
    gives="1.5 times the dense perplexity (20 %)",
    measured=(
        "Time: SmolLM2-135M-Instruct as multi-head LLaMA, one thread, 2026-11-25. Perplexity: 33.6 to 49.9 on the end "
        "of WikiText-2 validation, bfloat16, 2026-11-28; seed 0, one run each (benchmarks/README.md)."
    ),
    source="Block influence orders the layers (Men et al. 2024, arXiv:2403.03853); a regression chooses among them.",
)
