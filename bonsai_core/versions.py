"""What a result was computed with."""

from __future__ import annotations

import platform

import numpy as np
import torch
import transformers

import bonsai_core


def versions() -> dict[str, str]:
    """What the result was computed with."""
    return {
        "bonsai-prune": bonsai_core.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }
