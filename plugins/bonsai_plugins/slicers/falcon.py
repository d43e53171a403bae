"""Falcon: one model type, built in three ways; query, key and value share one linear."""

from typing import Any

from bonsai_core import AttentionSite, Family, MlpSite


def _falcon(name: str, title: str, where: dict[str, bool], **attention: Any) -> Family:
    return Family(
        name=name,
        model_types=("falcon",),
        where=where,
        title=title,
        layers="transformer.h",
        attention=AttentionSite(
            module="self_attention",
            query="query_key_value",
            key="query_key_value",
            value="query_key_value",
            output="dense",
            heads_attributes=("num_heads",),
            divides_hidden_size=True,
            **attention,
        ),
        attention_unless=("alibi",),
        why="the slope of every head follows from its number",
        mlp=MlpSite(inputs=("dense_h_to_4h",), output="dense_4h_to_h", width_field="ffn_hidden_size"),
    )


FALCON = _falcon(
    "falcon",
    "Falcon-40B, Falcon-180B, Falcon2-11B",
    {"new_decoder_architecture": True},
    interleaved=True,
    groups_field="num_kv_heads",
    groups_attributes=("num_kv_heads",),
)
FALCON_MQA = _falcon(
    "falcon_mqa",
    "Falcon-7B",
    {"new_decoder_architecture": False, "multi_query": True},
    groups_field=None,
)
FALCON_RW = _falcon(
    "falcon_rw",
    "Falcon-RW",
    {"new_decoder_architecture": False, "multi_query": False},
    interleaved=True,
    groups_field="num_attention_heads",
    groups_attributes=("num_kv_heads",),
)
