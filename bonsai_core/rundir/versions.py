"""What a result was computed with."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("bonsai-prune", "torch", "transformers", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result, by name."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
