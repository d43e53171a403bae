"""The record of what was exported for runtimes beside a run, in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from bonsai_core.contracts import Checkpoint, Exporter
from bonsai_core.errors import DamagedError
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.files import refuse_other_than, write_atomically
from bonsai_core.runtimes.export import Exported
from bonsai_core.runtimes.formats import default_path, find_exporter

RECORD_NAME = "exports.json"
_RECORD = TypeAdapter(dict[str, Exported])


def write_record(run: Path, exported: Mapping[str, Exported]) -> None:
    """Write the record, by format.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(run / RECORD_NAME, _RECORD.dump_json(dict(exported), indent=2))


def read_exported(run: Path, checkpoint: Checkpoint, registry: Registry) -> dict[str, Exported]:
    """By format, what was written for runtimes and is still there, wherever the run directory is by now.

    Args:
        checkpoint: the one in the run directory.

    Raises:
        BonsaiError: the record of it is damaged, or a format of it is not installed.
    """
    record = run / RECORD_NAME
    refuse_other_than("file", record)
    try:
        recorded = _RECORD.validate_json(record.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DamagedError(f"{record} is damaged ({error}); remove it, and resume the run.") from None
    there = {}
    for format, exported in recorded.items():
        exporter = find_exporter(format, registry)
        path = exported_path(run, format, exporter, checkpoint)
        if path.exists():
            there[format] = replace(exported, path=path, commands=exporter.commands(checkpoint, path))
    return there


def exported_path(run: Path, format: str, exporter: Exporter, checkpoint: Checkpoint) -> Path:
    """Where what a runtime loads is."""
    return checkpoint.path if exporter.as_saved(checkpoint) else default_path(str(run), format, exporter)
