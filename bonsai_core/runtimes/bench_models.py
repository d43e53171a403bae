"""The models of a comparison of speed: which is the dense one, and what of each a runtime loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bonsai_core.contracts import Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.lookup import find_source, model_config
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.bench_config import BenchConfig
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.export import export
from bonsai_core.sources import user_path


def dense_of(name: str) -> str:
    """What a model was pruned from.

    Raises:
        BonsaiError: that is not known.
    """
    dense = None if user_path(name).is_file() else find_provenance(name).dense
    if dense is None:
        raise BonsaiError(f"What {name} was pruned from is not known. --against names the dense model.")
    return dense


def dtype_of(config: BenchConfig, dense: str) -> str:
    """The type of the weights; for ``auto`` the dense checkpoint's own, or float32 where that is not known."""
    if config.dtype != "auto":
        return config.dtype
    if user_path(dense).is_file():
        return "float32"
    own = getattr(model_config(find_source(dense), config.trust_remote_code), "dtype", None)
    return str(own or "float32").removeprefix("torch.")


def written(
    name: str,
    format_: str,
    exporter: Exporter,
    stem: Path,
    config: BenchConfig,
    registry: Registry,
    warn: Callable[[str], None],
) -> Path:
    """A model as the runtime loads it: files and checkpoints that it reads as they are, everything else exported.

    Args:
        stem: what is exported goes there, with the exporter's suffix.

    Raises:
        BonsaiError: there is no such model, or the runtime cannot take it.
    """
    file = user_path(name)
    if file.is_file():
        if not exporter.suffix or file.suffix != exporter.suffix:
            wanted = f"a {exporter.suffix} file or a checkpoint" if exporter.suffix else "a checkpoint"
            raise BonsaiError(f"it is a file, and {exporter.runtime} takes {wanted}.")
        return file
    trusted = config.trust_remote_code
    checkpoint = open_checkpoint(name, registry, warn, trust_remote_code=trusted)
    if exporter.refusal(checkpoint) is None and exporter.as_saved(checkpoint):
        return checkpoint.path
    out = stem.with_suffix(exporter.suffix)
    return export(name, format_, out, registry=registry, trust_remote_code=trusted, warn=warn).path
