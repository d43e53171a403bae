"""Slicers: a model family as a declaration that one generic slicer reads."""

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
    that share one linear give its name each: its rows are then those of the queries, keys and values one behind the
    other or, where `interleaved`, group by group.

    Attributes:
        heads_field, groups_field: where the configuration has the numbers of query heads and of groups; the same field
            where every head has a key and a value of its own, and none where all heads share one group.
        heads_attributes, groups_attributes: where the attention module keeps these numbers, if its forward pass reads
            them there; most read off the shapes.
        reads_config: its forward pass reads them in `module.config`.
        divides_hidden_size: the stock class takes hidden size / heads for the head size, so that no stock checkpoint
            has fewer heads; with shapes uniform all of them stay.
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
        """The configuration's numbers of heads and groups where so many of the dense model's groups are left."""
        per_group = getattr(config, self.heads_field) // self.groups(config)
        return self._sizes(groups, groups * per_group)

    def query_sizes(self, config: Any, per_group: int) -> dict[str, int]:
        """The same where so many query heads of every group are left; without any, the groups are gone too."""
        groups = self.groups(config) if per_group else 0
        return self._sizes(groups, groups * per_group)

    def groups(self, config: Any) -> int:
        """The dense model's number of groups."""
        return 1 if self.groups_field is None else getattr(config, self.groups_field)

    def _sizes(self, groups: int, heads: int) -> dict[str, int]:
        sizes = {} if self.groups_field is None else {self.groups_field: groups}
        return sizes | {self.heads_field: heads}


class MlpSite(_SiteDeclaration):
    """An MLP: a channel is one row of every input projection and one column of the output projection.

    Input projections that share one linear give its name each: its rows lie one behind the other. An MLP whose linears
    lie in the decoder layer itself has the module "".
    """

    module: str = "mlp"
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    output: str = "down_proj"
    width_field: str = "intermediate_size"


class ExpertsSite(_Declaration):
    """A mixture of experts whose weights lie in three-dimensional parameters, one row for each expert.

    Module names are relative to the decoder layer; layers without such a module have an ordinary MLP. The experts are
    called with (hidden states, chosen experts, their weights) and the router returns (logits, weights, chosen experts),
    as in transformers since version 5. Both keep the number of experts as `num_experts`, the experts their width as
    `intermediate_dim`.

    Attributes:
        module, router: where they are.
        weights: names of the experts' parameters: the input projections, fused to one, [experts, 2 x channels, hidden],
            and the output projection, [experts, hidden, channels].
        router_weights: names of the router's, [experts, ...].
        count_field: where the configuration has the number of experts.
        per_token_field: where it has how many every token is sent to; so many stay in any case.
        width_field: where it has the number of an expert's channels.
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
        attention, mlp: where the units live; None where nothing can be removed.
        experts: where those of a mixture of experts are; None where there is none.
        attention_unless: fields of the configuration; where one of them is set, attention stays whole.
        why: why attention stays whole, if it does or can.
        starts_with_bos: its models break down on text that does not begin with the tokenizer's BOS token, so that every
            window begins with it.
        learned_positions: there is a row of weights for every position, so that no window can be longer.
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
        """Whether it is declared for a model, by its configuration."""
        return model_type in self.model_types and all(
            getattr(config, field, None) == value for field, value in self.where.items()
        )

    def of(self, config: Any) -> Family:
        """What holds for one model of the family, by its configuration."""
        if any(getattr(config, field, False) for field in self.attention_unless):
            return self.model_copy(update={"attention": None})
        return self
