"""Recipes: named settings for a run or an adaptation, such as one of the literature's baselines."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Recipe(BaseModel):
    """Settings that belong together under one name; the user's own settings override them.

    Attributes:
        name: what users type after ``--config``.
        summary: one line on what it is, with its source.
        settings: fields of the configuration, as in a recipe file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    settings: dict[str, Any]
