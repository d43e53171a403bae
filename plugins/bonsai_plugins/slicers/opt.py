"""OPT: biases everywhere, and the MLP's linears are in the decoder layer itself."""

from bonsai_core import AttentionSite, Family, MlpSite

OPT = Family(
    name="opt",
    model_types=("opt",),
    title="OPT",
    layers="model.decoder.layers",
    attention=AttentionSite(
        output="out_proj",
        groups_field="num_attention_heads",
        heads_attributes=("num_heads",),
        divides_hidden_size=True,
    ),
    mlp=MlpSite(module="", inputs=("fc1",), output="fc2", width_field="ffn_dim"),
    learned_positions=True,
)
