"""Built-in recipes of adaptations."""

from bonsai_core import Recipe, hookimpl

LORA = Recipe(
    name="lora",
    summary="Low-rank updates of all linears, distilled from the dense model; what runs without --config.",
    settings={"method": "lora"},
)
FULL = Recipe(
    name="full",
    summary="All weights, distilled from the dense model: wants memory for four copies of them.",
    settings={"method": "full"},
)
SCALES = Recipe(
    name="scales",
    summary="One scale per channel, nearly free ((IA)^3 on output projections, Liu et al. 2022, arXiv:2205.05638).",
    settings={"method": "scales"},
)
PAPER = Recipe(
    name="paper",
    summary="The published settings (Dery et al. 2024, arXiv:2402.05406), KL weight 0.01: wants a GPU.",
    settings={
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
    },
)


@hookimpl
def bonsai_adaptations() -> list[Recipe]:
    return [LORA, FULL, SCALES, PAPER]
