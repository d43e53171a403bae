"""Families: where a model keeps its units, as declarations that one generic slicer reads."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _SiteDeclaration(_Declaration):
    module: str
    output: str

    def path(self, linear: str) -> str:
        """A linear's name, relative to the decoder layer."""
        return f"{self.module}.{linear}" if self.module else linear


class AttentionSite(_SiteDeclaration):
    """Attention whose heads sit in KV groups: a group is its query heads, its key head and its value head.

    Module names are relative to the decoder layer. Without grouped-query attention a group is one head. Projections
    that are fused into one linear all have its name: its rows are those of all queries, then all keys, then all values
    or, if `interleaved`, those of one group after the other.

    Attributes:
        heads_field, groups_field: the configuration's fields for the numbers of query heads and of groups; the same
            field if every head has its own key and value, and None if all heads share one group.
        heads_attributes, groups_attributes: the attention module's attributes for these numbers, if its forward pass
            reads them there; most use the shapes.
        reads_config: its forward pass reads them in `module.config`.
        divides_hidden_size: the stock class computes the head size as hidden size / heads, so that no stock checkpoint
            can have fewer heads: with shapes uniform all of them stay.
    """

    module: str = "self_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    interleaved: bool = False
    heads_field: str = "num_attention_heads"
    groups_field: str | None = "num_key_value_heads"
    heads_attributes: tuple[str, ...] = ()
    groups_attributes: tuple[str, ...] = ()
    reads_config: bool = False
    divides_hidden_size: bool = False

    def sizes(self, config: Any, groups: int) -> dict[str, int]:
        """The configuration's numbers of heads and groups if this many of the dense model's groups are left."""
        return self._sizes(groups, getattr(config, self.heads_field) // self.groups(config))

    def query_sizes(self, config: Any, per_group: int) -> dict[str, int]:
        """The same if this many query heads of every group are left; without any, the groups are gone too."""
        return self._sizes(self.groups(config) if per_group else 0, per_group)

    def groups(self, config: Any) -> int:
        """The dense model's number of groups."""
        return 1 if self.groups_field is None else getattr(config, self.groups_field)

    def _sizes(self, groups: int, per_group: int) -> dict[str, int]:
        sizes = {} if self.groups_field is None else {self.groups_field: groups}
        return sizes | {self.heads_field: groups * per_group}


class MlpSite(_SiteDeclaration):
    """An MLP: a channel is one row of every input projection and one column of the output projection.

    Input projections that are fused into one linear all have its name: its rows are those of one after the other. The
    module is "" if the linears are in the decoder layer itself.
    """

    module: str = "mlp"
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    output: str = "down_proj"
    width_field: str = "intermediate_size"


class ExpertsSite(_Declaration):
    """A mixture of experts whose weights are three-dimensional parameters, one row for each expert.

    Module names are relative to the decoder layer; layers without such a module have an ordinary MLP. The experts are
    called with (hidden states, chosen experts, their weights) and the router returns (logits, weights, chosen experts),
    as in transformers since version 5. Both keep the number of experts as `num_experts`, the experts their width as
    `intermediate_dim`.

    Attributes:
        weights: names of the experts' parameters: the fused input projections, [experts, 2 x channels, hidden], and the
            output projection, [experts, hidden, channels].
        router_weights: names of the router's, [experts, ...].
        count_field: the configuration's field for the number of experts.
        per_token_field: that for the number of experts that every token is sent to; this many always stay.
        width_field: that for the number of an expert's channels.
    """

    module: str = "mlp.experts"
    router: str = "mlp.gate"
    weights: tuple[str, ...] = ("gate_up_proj", "down_proj")
    router_weights: tuple[str, ...] = ("weight",)
    count_field: str = "num_experts"
    per_token_field: str = "num_experts_per_tok"
    width_field: str = "moe_intermediate_size"


class Family(_Declaration):
    """How one model family is built: everything the slicer needs to know, and nothing else.

    Attributes:
        name: what users type after ``--slicer``.
        model_types: the `model_type` values of config.json that belong to the family.
        where: fields of the configuration and their values, for model types that are built in more than one way.
        title: what people call its models, for the documentation.
        layers: path of the list of decoder layers in the causal LM.
        attention: where every layer has it; None if it must stay whole.
        mlp: where every layer has it.
        experts: the mixture of experts; None if there is none.
        attention_unless: fields of the configuration; if one of them is set, attention stays whole.
        why: why attention stays whole, if it does or can.
        starts_with_bos: its models break down on text that does not begin with the tokenizer's BOS token, so every
            window begins with it.
        learned_positions: there is a row of weights for every position, so no window can be longer.
    """

    name: str
    model_types: tuple[str, ...]
    where: dict[str, Any] = {}
    title: str = ""
    layers: str = "model.layers"
    attention: AttentionSite | None = AttentionSite()
    mlp: MlpSite = MlpSite()
    experts: ExpertsSite | None = None
    attention_unless: tuple[str, ...] = ()
    why: str = ""
    starts_with_bos: bool = False
    learned_positions: bool = False

    def covers(self, model_type: str, config: Any) -> bool:
        """Whether a model belongs to it, by its configuration."""
        return model_type in self.model_types and all(
            getattr(config, field, None) == value for field, value in self.where.items()
        )

    def of(self, config: Any) -> Family:
        """The declaration for one model of the family, by its configuration."""
        if any(getattr(config, field, False) for field in self.attention_unless):
            return self.model_copy(update={"attention": None})
        return self
