"""What `--for` means: shapes that the named runtimes take, and exports for them at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bonsai_core.config import RunConfig
from bonsai_core.contracts import Shapes
from bonsai_core.engine.machine import multiples_in
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Stage, StageStarted, Warned
from bonsai_core.model.loading.parent import find_parent, table_of
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.export import Exported, verify_if_possible, write
from bonsai_core.runtimes.formats import find_exporter, format_for
from bonsai_core.runtimes.record import exported_path, read_exported, write_record
from bonsai_core.runtimes.verify import reference
from bonsai_core.selection.limits import Limit, minimums, multiples


def suited_to_runtimes(config: RunConfig, registry: Registry) -> RunConfig:
    """The configuration with the shapes that the runtimes of `--for` take; what it changes is said as a warning.

    Raises:
        BonsaiError: there is no such runtime, it takes no pruned model of the family, what exporting needs is missing,
            or a setting contradicts it.
    """
    if not config.runtimes:
        return config
    chosen = [find_exporter(format_for(name, registry), registry) for name in config.runtimes]
    for exporter in chosen:
        exporter.check_ready()
        if config.adapt is not None and not exporter.takes_adapted:
            raise BonsaiError(
                f"--for {exporter.runtime} cannot take what --adapt trains. Leave one of them out; export the run "
                f"itself with: bonsai export RUN --format {exporter.name}"
            )
    parent = find_parent(config, registry, download=False, warn=lambda text: None)
    wanted = [exporter.shapes(parent.config, parent.family) for exporter in chosen]
    changes = _changes(config, wanted, multiples_in(config, table_of(parent, config)))
    if changes:
        said = ", ".join(f"{name}: {_typed(value)}" for name, value in changes.items())
        registry.observe(Warned(f"So that {', '.join(config.runtimes)} can take the result, the run has {said}."))
    given = config.model_dump(exclude_unset=True)
    return RunConfig.from_mapping({**given, **changes}, f"--for {','.join(config.runtimes)}")


def _changes(config: RunConfig, wanted: list[Shapes], rounded: Limit[int]) -> dict[str, Any]:
    """The settings that have to change, with their new values.

    Args:
        rounded: what numbers of units are multiples of without the runtimes.
    """
    changes: dict[str, Any] = {}
    if any(shapes.uniform for shapes in wanted) and not config.stock:
        if "shapes" in config.model_fields_set:
            raise BonsaiError(
                f"--for {','.join(config.runtimes)} needs --shapes uniform for this model family, and --shapes "
                f"{config.shapes} was given. Leave one of them out."
            )
        changes["shapes"] = "uniform"
    excluded = {kind for shapes in wanted for kind in shapes.excluded}
    units = tuple(kind for kind in config.units if kind not in excluded)
    if not units:
        raise BonsaiError(
            f"--for {','.join(config.runtimes)}: none of --units {','.join(config.units)} may leave a model of this "
            f"family there. Name others."
        )
    if units != config.units:
        changes["units"] = units
    changes |= _merged(minimums(config.min_units), wanted, "min_units", minimums, max)
    return changes | _merged(rounded, wanted, "round_to", multiples, math.lcm)


def _merged(
    own: Limit[int],
    wanted: list[Shapes],
    name: str,
    limit: Callable[[Any], Any],
    join: Callable[[int, int], int],
) -> dict[str, Any]:
    """A limit per kind of site, joined with those of the runtimes; empty if that changes nothing."""
    joined = dict(own.by_kind)
    for shapes in wanted:
        for kind, number in getattr(shapes, name).items():
            joined[kind] = join(joined[kind], number)
    return (
        {} if joined == own.by_kind else {name: {kind: n for kind, n in joined.items() if n != limit(1).by_kind[kind]}}
    )


def _typed(value: Any) -> str:
    """A setting's value as users type it."""
    if isinstance(value, Mapping):
        return ",".join(f"{kind}={number}" for kind, number in value.items())
    return ",".join(value) if isinstance(value, tuple) else str(value)


def export_for_runtimes(run: Path, config: RunConfig, registry: Registry) -> tuple[Exported, ...]:
    """Write and verify what `--for` promised, beside the checkpoint of a run or an adaptation.

    What an earlier process wrote and verified stays as it is; what it could not verify is tried again.

    Raises:
        BonsaiError: an export fails, or is another model.
    """
    if not config.runtimes:
        return ()
    trusted = config.trust_remote_code
    checkpoint = open_checkpoint(str(run), registry, lambda text: None, trust_remote_code=trusted)
    expected = cache(lambda: reference(checkpoint, trust_remote_code=trusted))  # once for all runtimes
    done = read_exported(run, checkpoint, registry)
    formats = {name: format_for(name, registry) for name in config.runtimes}
    for name, format in formats.items():
        if format in done and done[format].unverified is None:
            continue
        exporter = find_exporter(format, registry)
        refusal = exporter.refusal(checkpoint)
        if refusal is not None:
            raise BonsaiError(f"{exporter.runtime} cannot take what was pruned: {refusal}")
        registry.observe(StageStarted(Stage.EXPORT, 0, f"export for {name}"))
        path = exported_path(run, format, exporter, checkpoint)
        if not path.exists():
            write(exporter, checkpoint, path)
        done[format] = verify_if_possible(exporter, checkpoint, path, expected, trust_remote_code=trusted)
        write_record(run, done)
    return tuple(done[format] for format in dict.fromkeys(formats.values()))
