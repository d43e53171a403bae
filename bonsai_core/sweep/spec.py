"""The format of a sweep file, checked when it is read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from bonsai_core.errors import BonsaiError, UnknownNameError, shown
from bonsai_core.settings.recipe_files import read_recipe
from bonsai_core.settings.schema import Schema, describe_faults, where
from bonsai_core.settings.types import Seed
from bonsai_core.sweep.quantities import QUANTITIES

MAX_RUNS = 10_000
MOST = 1024
"""CPUs or GPUs of a run, and runs at a time on one machine."""
RESERVED = {
    "seed": "use the sweep's `seeds`",
    "out": "every run gets a directory of its own; use --out",
    "push_to_hub": "its runs would replace each other there; push one of them with `bonsai push`",
}


def _known_quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise ValueError(str(UnknownNameError("quantity", name, QUANTITIES)))
    return name


QuantityName = Annotated[str, AfterValidator(_known_quantity)]
Settings = dict[str, Any]
Resource = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]


class PlotSettings(Schema):
    """What all plots have; ``log_y`` auto: logarithmic when the values span more than a factor of 5."""

    y: QuantityName
    title: str = ""
    log_y: Literal["auto", True, False] = "auto"


class Lines(PlotSettings):
    """One line per arm over a quantity or a setting of the grid; mean over seeds, whiskers from lowest to highest.

    Attributes:
        rounds: draw every round of the runs that have evaluated rounds (setting ``eval_rounds``) instead of their ends.
    """

    kind: Literal["lines"]
    x: str
    rounds: bool = False


class Bars(PlotSettings):
    """One bar per arm and grid point, the mean over seeds, with a dot per seed."""

    kind: Literal["bars"]


class Bubbles(PlotSettings):
    """One bubble per arm and grid point; its area shows a third quantity."""

    kind: Literal["bubbles"]
    x: QuantityName
    size: QuantityName


Plot = Annotated[Lines | Bars | Bubbles, Field(discriminator="kind")]
PLOTS: Mapping[str, type[Schema]] = {"lines": Lines, "bars": Bars, "bubbles": Bubbles}


class Arm(Schema):
    """A named variant: settings that override the sweep's, and a grid that replaces the sweep's."""

    settings: Settings = Field(default_factory=dict)
    grid: Grid | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_mapping(cls, value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        rest = {name: item for name, item in value.items() if name != "grid"}
        return {"settings": rest, **({"grid": value["grid"]} if "grid" in value else {})}


class SweepSpec(Schema):
    """A sweep file.

    Attributes:
        base: settings common to all runs.
        grid: values per setting; every combination is run.
        arms: named variants, crossed with the grid.
        keep_models: whether the pruned checkpoints are kept once their reports are written.
        num_cpus: that a run takes on a Ray cluster.
        num_gpus: the same of GPUs; None: one where the cluster has any.
    """

    title: str
    about: str = ""
    base: Settings = Field(default_factory=dict)
    grid: Grid = Field(default_factory=dict)
    arms: Annotated[dict[str, Arm], Field(min_length=1)] = Field(default={"default": Arm()})
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(default=[0])
    keep_models: bool = False
    num_cpus: Resource = 1.0
    num_gpus: Resource | None = None
    plots: list[Plot] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_together(self) -> SweepSpec:
        places: list[tuple[str, Mapping[str, Any]]] = [("base", self.base), ("grid", self.grid)]
        for name, arm in self.arms.items():
            places += [(f"arm {shown(name)}", arm.settings), (f"the grid of arm {shown(name)}", arm.grid or {})]
        for (place, settings), (name, advice) in itertools.product(places, RESERVED.items()):
            if name in settings:
                raise ValueError(f"{place} sets {name}, which a sweep sets itself: {advice}")
        self._refuse_too_many()
        grids = [self.grid, *(arm.grid or {} for arm in self.arms.values())]
        for grid in grids:
            for name, values in grid.items():
                _refuse_duplicates(f"grid.{name}", values)
        _refuse_duplicates("seeds", self.seeds)
        known = {*QUANTITIES, *(name for grid in grids for name in grid)}
        for plot in self.plots:
            if isinstance(plot, Lines) and plot.x not in known:
                raise ValueError(str(UnknownNameError("quantity or setting of the grid", plot.x, known)))
        return self

    def _refuse_too_many(self) -> None:
        """All runs are listed and checked before the first begins."""
        grids = [self.grid if arm.grid is None else arm.grid for arm in self.arms.values()]
        runs = len(self.seeds) * sum(math.prod(map(len, grid.values())) for grid in grids)
        if runs > MAX_RUNS:
            raise ValueError(f"{runs:,} runs, of all arms, grids and seeds; at most {MAX_RUNS:,}")


def read_sweep(path: Path) -> SweepSpec:
    """A sweep file.

    Raises:
        BonsaiError: it cannot be read, or something in it is unknown or has a bad value.
    """
    try:
        return SweepSpec.model_validate(read_recipe(path))
    except ValidationError as error:
        raise BonsaiError(f"The sweep {path}: {describe_faults(error, _describe)}") from None


def _refuse_duplicates(place: str, values: list[Any]) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ValueError(f"{place} lists {shown(value)} twice")


def _describe(row: Any, words: str) -> str:
    if row["type"] == "extra_forbidden":
        plot = next((PLOTS[part] for part in row["loc"] if part in PLOTS), None)
        kind = "key of a plot" if plot else "key of a sweep"
        return str(UnknownNameError(kind, str(row["loc"][-1]), (plot or SweepSpec).model_fields))
    return f"{where(row)}: {words}" if row["loc"] else words
