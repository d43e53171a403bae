"""What a result was computed with."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import bonsai_core

MAY_DIFFER = ("python", "numpy")
"""Packages whose versions decide nothing between processes of the same run; Ray itself refuses another Python."""


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


def other_versions(wanted: Mapping[str, str]) -> str | None:
    """What this process has in other versions than the one that starts a run, in words; None if nothing.

    Builds of torch for other devices do not count.

    Args:
        wanted: what `versions` gave there.
    """
    here = versions(wanted)
    different = [
        f"{name} {here.get(name, 'is missing')} instead of {version}"
        for name, version in wanted.items()
        if name not in MAY_DIFFER and here.get(name, "").partition("+")[0] != version.partition("+")[0]
    ]
    return "; ".join(different) or None
