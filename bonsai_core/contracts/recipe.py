"""Recipes: named settings for a run or an adaptation, such as one of the literature's baselines."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Recipe(BaseModel):
    """Settings that belong together under one name; the user's own settings override them.

    Attributes:
        name: what users type after ``--config``.
        summary: one line on what it is.
        settings: fields of the configuration, as in a recipe file.
        group: heading under which listings show it, with others of its kind.
        cost: time and memory that it takes, in a few words, with the model and the machine.
        gives: what comes out, in a few words.
        measured: how the figures in `cost` and `gives` were obtained; empty: they were not measured.
        source: where the settings are from: a paper, published code, measurements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    settings: dict[str, Any]
    group: str = ""
    cost: str = ""
    gives: str = ""
    measured: str = ""
    source: str = ""
