"""From a sweep file to the runs it asks for, every one of them checked."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bonsai_core.config import RunConfig
from bonsai_core.engine.methods import choose_methods
from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.registry.recipes import recipe_settings
from bonsai_core.registry.registry import Registry
from bonsai_core.sweep.quantities import describe, show_setting
from bonsai_core.sweep.spec import SweepSpec

LONGEST_NAME = 100
DEFAULTS: Mapping[str, Any] = {"latency": False}
"""Settings that differ from a single run's: timing side by side takes longer than a small run itself."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its values of the grid's settings, its directory's name, and its settings but for `out`."""

    arm: str
    point: Mapping[str, Any]
    seed: int
    name: str
    config: RunConfig

    def __str__(self) -> str:
        return describe(self.arm, self.point, self.seed)


def expand(spec: SweepSpec, file: Path, registry: Registry, overrides: Mapping[str, Any]) -> list[SweepRun]:
    """Every arm at every point of its grid with every seed; one seed after the other, so that all arms show early.

    Args:
        file: the sweep's; recipes are looked for beside it.
        overrides: settings that override those of `base`.

    Raises:
        BonsaiError: a setting, plugin or option of any run is wrong; the message says in which run.
    """
    with _located(f"The sweep {file}, base"):
        base = {**DEFAULTS, **_expanded(spec.base, file.parent, registry), **overrides}
    runs = []
    for seed, (name, arm) in itertools.product(spec.seeds, spec.arms.items()):
        grid = spec.grid if arm.grid is None else arm.grid
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            with _located(f"The sweep {file}, {describe(name, point, seed)}"):
                own = {**_expanded(arm.settings, file.parent, registry), **_expanded(point, file.parent, registry)}
                config = RunConfig.from_mapping({**base, **own, "seed": seed, "out": None}, "settings")
                choose_methods(config, registry)
                if config.slicer != RunConfig.model_fields["slicer"].default:
                    registry.family(config.slicer)
            runs.append(SweepRun(name, point, seed, _readable(name, point, seed), config))
    return _with_unique_names(runs)


def _expanded(settings: Mapping[str, Any], folder: Path, registry: Registry) -> dict[str, Any]:
    """The settings, over those of the recipe that their key ``config`` names."""
    rest = dict(settings)
    recipe = rest.pop("config", None)
    if recipe is None:
        return rest
    return {**recipe_settings(str(recipe), registry, folder=folder), **rest}


@contextmanager
def _located(where: str) -> Iterator[None]:
    try:
        yield
    except BonsaiError as error:
        raise BonsaiError(f"{shortened(where)}: {error}") from None


def _readable(arm: str, point: Mapping[str, Any], seed: int) -> str:
    words = [arm, *(show_setting(name, value) for name, value in point.items()), f"seed {seed}"]
    return "_".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-.") for word in words)


def _with_unique_names(runs: list[SweepRun]) -> list[SweepRun]:
    """The runs; names that two runs have, or that are too long, end in a hash of what the run is."""
    count = Counter(run.name for run in runs)
    plain = {name for name, number in count.items() if number == 1 and len(name) <= LONGEST_NAME}
    return [run if run.name in plain else replace(run, name=f"{run.name[:LONGEST_NAME]}-{_hash(run)}") for run in runs]


def _hash(run: SweepRun) -> str:
    """Of the run's place in the sweep, not of its settings: if those change, its directory is found, and refused."""
    return hashlib.sha256(json.dumps([run.arm, run.point, run.seed]).encode()).hexdigest()[:8]
