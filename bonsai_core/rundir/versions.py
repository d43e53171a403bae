"""What a result was computed with."""

from __future__ import annotations

import platform

import bonsai_core


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result, by name; torch's names its build."""
    import numpy
    import torch
    import transformers

    return {
        "bonsai-prune": bonsai_core.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }
