"""Slicers: a model family as a declaration that one generic slicer reads."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AttentionSite(_Declaration):
    """Attention whose heads sit in KV groups: a group is its query heads, its key head and its value head.

    Module names are relative to the decoder layer. Without grouped-query attention a group is one head.
    """

    module: str = "self_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    heads_field: str = "num_attention_heads"
    groups_field: str = "num_key_value_heads"


class MlpSite(_Declaration):
    """An MLP: a channel is one row of every input projection and one column of the output projection."""

    module: str = "mlp"
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    output: str = "down_proj"
    width_field: str = "intermediate_size"


class Family(_Declaration):
    """How one model family is built: everything the slicer needs to know, and nothing else.

    Attributes:
        name: what users type after ``--slicer``.
        model_types: the `model_type` values of config.json that belong to the family.
        layers: path of the list of decoder layers in the causal LM.
        attention, mlp: where the units live.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    attention: AttentionSite = AttentionSite()
    mlp: MlpSite = MlpSite()
