"""The table of model families, drawn from their declarations."""

from __future__ import annotations

from collections.abc import Sequence

from bonsai_core.contracts import AttentionSite, Family

HEADER = (
    "--slicer",
    "models",
    "model_type",
    "units with shapes free (a checkpoint for transformers)",
    "units with shapes uniform (a stock checkpoint, for every runtime)",
    "note",
)


def family_rows(families: Sequence[Family]) -> list[tuple[str, ...]]:
    """One row of text per family, under `HEADER`."""
    return [
        (
            family.name,
            family.title or family.name,
            ", ".join(family.model_types),
            ", ".join(_units(family)),
            ", ".join(_stock_units(family)),
            _note(family),
        )
        for family in families
    ]


def families_markdown(families: Sequence[Family]) -> str:
    """The table as Markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *family_rows(families)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _units(family: Family) -> list[str]:
    """What may leave each layer on its own: a checkpoint with its own modeling file, which transformers loads."""
    attention = family.attention
    heads = [] if attention is None else [_heads(attention)]
    if family.experts:
        return [*heads, "experts or their widths", *(["attentions"] if heads else []), "layers"]
    return [*heads, "MLP channels", "sub-layers" if heads else "MLPs", "layers"]


def _heads(attention: AttentionSite) -> str:
    return "heads" if attention.groups_field == attention.heads_field else "KV groups or query heads"


def _stock_units(family: Family) -> list[str]:
    """What may leave in equal numbers from all layers, or with its layer: a checkpoint of the stock class."""
    never = {"sub-layers", "attentions", "MLPs"}
    if family.attention is not None and family.attention.divides_hidden_size:
        never.add(_heads(family.attention))
    return [unit for unit in _units(family) if unit not in never]


def _note(family: Family) -> str:
    if family.attention_unless:
        return f"attention stays whole with {', '.join(family.attention_unless)}: {family.why}"
    return f"attention stays whole: {family.why}" if family.attention is None else ""
