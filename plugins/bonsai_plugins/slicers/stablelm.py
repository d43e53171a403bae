"""StableLM: LLaMA's projections; the attention counts its heads itself."""

from bonsai_core import AttentionSite, Family

STABLELM = Family(
    name="stablelm",
    model_types=("stablelm",),
    title="StableLM",
    attention=AttentionSite(
        heads_attributes=("num_heads",),
        groups_attributes=("num_key_value_heads",),
        divides_hidden_size=True,
    ),
    attention_unless=("qk_layernorm",),
    why="every head has a norm of its own then",
)
