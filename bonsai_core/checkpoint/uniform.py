"""Which uniform sizes a model family's stock configuration accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from bonsai_core.checkpoint.modeling_bonsai import derives_head_dim
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError


def stock_class(ragged_or_stock: Any) -> Any:
    """The transformers class behind a ragged one; a stock class is its own."""
    return getattr(ragged_or_stock, "stock_class", ragged_or_stock)


def under_own_names(config: Any, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes under the names that the configuration writes, where a field has two."""
    names = getattr(config, "attribute_map", {})
    return {names.get(name, name): size for name, size in sizes.items()}


def set_head_dim(values: dict[str, Any], config: Any, config_class: Any) -> None:
    """Add the dense head size to a pruned configuration's fields: stock classes derive it from the heads otherwise.

    Classes that always derive it have no such field, and keep their heads.
    """
    if not derives_head_dim(config_class):
        values["head_dim"] = values.get("head_dim") or config.hidden_size // config.num_attention_heads


def check_uniform(config: Any, sizes: Mapping[str, int], family: Family) -> None:
    """Check that the stock class accepts sizes in every layer: new values of some of the dense configuration's fields.

    Raises:
        BonsaiError: it refuses; the message lists the head counts that it accepts.
    """
    reason = _refusal(config, sizes, family)
    if reason is None:
        return
    asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
    raise BonsaiError(
        f"No {stock_class(type(config)).__name__} has {asked}: {reason} "
        f"{_allowed_heads(config, family)} With shapes free every number of heads works."
    )


def _refusal(config: Any, sizes: Mapping[str, int], family: Family) -> str | None:
    """Why the stock class refuses, or None if it accepts."""
    values = config.to_dict()
    values.pop("per_layer_config", None)
    set_head_dim(values, config, stock_class(type(config)))
    for name, size in sizes.items():
        if size < 1:
            return f"a stock model has at least 1 for {name}."
    attention = family.attention
    if attention is not None and attention.divides_hidden_size:
        heads = getattr(config, attention.heads_field)
        if sizes.get(attention.heads_field, heads) != heads:
            return "its head size is always hidden size / heads, which would change."
    try:
        stock_class(type(config)).from_dict(values | under_own_names(config, sizes))
    except (StrictDataclassError, ValueError) as error:
        return str(error.__cause__ or error)
    return None


def _allowed_heads(config: Any, family: Family) -> str:
    attention = family.attention
    if attention is None:
        return ""
    allowed = []
    for groups in range(1, attention.groups(config) + 1):
        sizes = attention.sizes(config, groups)
        if _refusal(config, sizes, family) is None:
            allowed.append(f"{sizes[attention.heads_field]} ({groups})")
    return f"Of whole KV groups it accepts these numbers of heads (and KV heads): {', '.join(allowed)}."
