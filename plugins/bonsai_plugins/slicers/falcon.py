"""Falcon: one model type, built in three ways; query, key and value are fused into one linear."""

from typing import Any

from bonsai_core import AttentionSite, Family, MlpSite

LAYERS = "transformer.h"
MLP = MlpSite(inputs=("dense_h_to_4h",), output="dense_4h_to_h", width_field="ffn_hidden_size")
ALIBI: dict[str, Any] = {"attention_unless": ("alibi",), "why": "the slope of every head follows from its number"}


def _attention(**layout: Any) -> AttentionSite:
    fused = "query_key_value"
    return AttentionSite(
        module="self_attention",
        query=fused,
        key=fused,
        value=fused,
        output="dense",
        heads_attributes=("num_heads",),
        divides_hidden_size=True,
        **layout,
    )


FALCON = Family(
    name="falcon",
    model_types=("falcon",),
    where={"new_decoder_architecture": True},
    title="Falcon-40B, Falcon-180B, Falcon2-11B",
    layers=LAYERS,
    attention=_attention(interleaved=True, groups_field="num_kv_heads", groups_attributes=("num_kv_heads",)),
    mlp=MLP,
    **ALIBI,
)
FALCON_MQA = Family(
    name="falcon_mqa",
    model_types=("falcon",),
    where={"new_decoder_architecture": False, "multi_query": True},
    title="Falcon-7B",
    layers=LAYERS,
    attention=_attention(groups_field=None),
    mlp=MLP,
    **ALIBI,
)
FALCON_RW = Family(
    name="falcon_rw",
    model_types=("falcon",),
    where={"new_decoder_architecture": False, "multi_query": False},
    title="Falcon-RW",
    layers=LAYERS,
    attention=None,
    why=f"with ALiBi {ALIBI['why']}",
    mlp=MLP,
)
