"""Mixtures of experts: attention as in their dense relatives, and experts in place of an MLP."""

from bonsai_core import ExpertsSite, Family

MIXTRAL = Family(
    name="mixtral",
    model_types=("mixtral",),
    title="Mixtral",
    experts=ExpertsSite(count_field="num_local_experts", width_field="intermediate_size"),
)
QWEN_MOE = Family(
    name="qwen_moe",
    model_types=("qwen2_moe", "qwen3_moe"),
    title="Qwen1.5-MoE, Qwen2-MoE, Qwen3-MoE",
    experts=ExpertsSite(),
)
OLMOE = Family(
    name="olmoe",
    model_types=("olmoe",),
    title="OLMoE",
    attention=None,
    experts=ExpertsSite(width_field="intermediate_size"),
    why="queries and keys are normalised over all heads together, so that removing one changes the others",
)
