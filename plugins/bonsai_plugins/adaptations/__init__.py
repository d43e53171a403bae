"""Built-in recipes of adaptations."""

from typing import Any

from bonsai_core import Recipe, hookimpl

GROUP, PAPERS = "By what is trained", "Literature: the paper's"
RECOVERY = (
    "SmolLM2-135M-Instruct pruned to 50 %, 250,880 tokens of WikiText-2, --learning-rate 2e-4 --batch-size 4 "
    "--sequence-length 256; perplexity on 12 windows of 1,024 tokens of its test split (dense: 25.9), bfloat16, 2 CPU "
    "cores, seed 0, one run, 2026-11-26 (benchmarks/README.md)."
)
PUBLISHED: dict[str, Any] = {
    "method": "lora",
    "lora_rank": 128,
    "lora_alpha": 512,
    "lora_dropout": 0.05,
    "learning_rate": 1e-4,
    "batch_size": 128,
    "micro_batch_size": 1,
    "kl_weight": 0.01,
    "hidden_weight": 0.0,
    "teacher_top_k": 0,
}

LORA = Recipe(
    name="lora",
    group=GROUP,
    summary="Low-rank updates of all linears, distilled from the dense model.",
    settings={"method": "lora"},
    cost="memory for a few per cent of a large model's weights",
    gives="about as much as all weights",
    measured=(
        "On the last fifth of the calibration text, after 60,000 tokens, both with 4 windows a step: 23.29, all "
        "weights 23.25 (pruned: 37.9, dense: 18.1); SmolLM2-135M-Instruct at 50 %, --learning-rate 1e-3 (all weights: "
        "2e-4), seed 0, one run, 2026-11-26 (benchmarks/README.md)."
    ),
    source="Hu et al. 2021, arXiv:2106.09685. What runs without --config.",
)
FULL = Recipe(
    name="full",
    group=GROUP,
    summary="All weights, distilled from the dense model.",
    settings={"method": "full"},
    cost="memory for four copies of the weights; 14 min (135M)",
    gives="perplexity from 85.4 to 44.6 (50 %)",
    measured=RECOVERY,
)
SCALES = Recipe(
    name="scales",
    group=GROUP,
    summary="One scale for each channel that an output projection reads.",
    settings={"method": "scales"},
    cost="next to no memory beyond that of the passes",
    source="(IA)^3 on output projections, Liu et al. 2022, arXiv:2205.05638.",
)
PAPER = Recipe(
    name="paper",
    group=PAPERS,
    summary="The published settings, with a KL weight of 0.01.",
    settings=PUBLISHED,
    cost="a GPU that holds the model and its teacher",
    source="Dery et al. 2024, arXiv:2402.05406, and the authors' command (github.com/ldery/Bonsai).",
)
PAPER_C4 = Recipe(
    name="paper-c4",
    group=PAPERS,
    summary="The same, on 7.7 million tokens of C4.",
    settings={**PUBLISHED, "dataset": "c4", "tokens": 15_000 * 512},
    cost="a GPU that holds the model and its teacher",
    source="The authors' command takes 15,000 samples of 512 tokens at most (github.com/ldery/Bonsai).",
)


@hookimpl
def bonsai_adaptations() -> list[Recipe]:
    return [LORA, FULL, SCALES, PAPER, PAPER_C4]
