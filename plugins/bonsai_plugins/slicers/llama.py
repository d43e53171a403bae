"""LLaMA and Mistral: separate q/k/v projections, gated MLP, no bias on the residual path."""

from bonsai_core import AttentionSite, Family, MlpSite

LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral"),
    layers="model.layers",
    attention=AttentionSite(module="self_attn", query="q_proj", key="k_proj", value="v_proj", output="o_proj"),
    mlp=MlpSite(module="mlp", inputs=("gate_proj", "up_proj"), output="down_proj"),
)
