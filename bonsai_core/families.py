"""The table of model families, drawn from their declarations."""

from __future__ import annotations

from collections.abc import Sequence

from bonsai_core.contracts import Family

HEADER = ("--slicer", "models", "model_type", "units", "uniform shapes", "note")


def family_rows(families: Sequence[Family]) -> list[tuple[str, ...]]:
    """One row of text per family, under `HEADER`."""
    return [
        (
            family.name,
            family.title or family.name,
            ", ".join(family.model_types),
            _units(family),
            "MLP channels" if family.attention is None or family.attention.divides_hidden_size else "all units",
            _note(family),
        )
        for family in families
    ]


def families_markdown(families: Sequence[Family]) -> str:
    """The table as Markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *family_rows(families)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _units(family: Family) -> str:
    attention = family.attention
    if attention is None:
        return "MLP channels"
    return f"{'heads' if attention.groups_field == attention.heads_field else 'KV groups'}, MLP channels"


def _note(family: Family) -> str:
    if family.attention_unless:
        return f"attention stays whole with {', '.join(family.attention_unless)}: {family.why}"
    return f"attention stays whole: {family.why}" if family.attention is None else ""
