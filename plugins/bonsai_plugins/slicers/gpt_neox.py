"""GPT-NeoX and Pythia: query, key and value of a head are consecutive rows of one linear."""

from bonsai_core import AttentionSite, Family, MlpSite

GPT_NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    title="GPT-NeoX, Pythia",
    layers="gpt_neox.layers",
    attention=AttentionSite(
        module="attention",
        query="query_key_value",
        key="query_key_value",
        value="query_key_value",
        output="dense",
        interleaved=True,
        groups_field="num_attention_heads",
        divides_hidden_size=True,
    ),
    mlp=MlpSite(inputs=("dense_h_to_4h",), output="dense_4h_to_h"),
)
