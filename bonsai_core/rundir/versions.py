"""What a result was computed with."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import bonsai_core


def versions(plugins: Iterable[str] = ()) -> dict[str, str]:
    """The versions of Python and of the packages that decide a result, by name; torch's names its build.

    Args:
        plugins: packages that plugins come from; those that are not installed, and so have no version, are left out.
    """
    import numpy
    import torch
    import transformers

    found = {
        "bonsai-prune": bonsai_core.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }
    for package in plugins:
        with suppress(PackageNotFoundError):
            found.setdefault(package, version(package))
    return found
