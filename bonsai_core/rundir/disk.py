"""Free disk space, and free names."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

from bonsai_core.errors import BonsaiError


def check_disk(path: Path, needed_bytes: int) -> None:
    """Refuse before the run starts if its result would not fit.

    Raises:
        BonsaiError: less is free than the run needs.
    """
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise BonsaiError(
            f"Not enough room at {existing}: the run needs about {needed_bytes / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free. Make room, or choose another --out."
        )


def free_path(folder: Path, name: str) -> Path:
    """folder/name without characters that are awkward in file names, and with a number appended if it exists."""
    base = folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model")
    candidates = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in itertools.count(1))
    return next(path for path in candidates if not os.path.lexists(path))
