"""Phi: biases everywhere in a parallel block; and Phi-3, with fused projections."""

from bonsai_core import AttentionSite, Family, MlpSite

PHI = Family(
    name="phi",
    model_types=("phi",),
    title="Phi-1, Phi-1.5, Phi-2",
    attention=AttentionSite(output="dense", divides_hidden_size=True),
    mlp=MlpSite(inputs=("fc1",), output="fc2"),
)
PHI3 = Family(
    name="phi3",
    model_types=("phi3",),
    title="Phi-3, Phi-3.5, Phi-4 (text)",
    attention=AttentionSite(
        query="qkv_proj",
        key="qkv_proj",
        value="qkv_proj",
        groups_attributes=("num_key_value_heads",),
        reads_config=True,
    ),
    mlp=MlpSite(inputs=("gate_up_proj", "gate_up_proj")),
)
