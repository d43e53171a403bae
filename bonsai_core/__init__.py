"""Bonsai: structured pruning of large language models with forward passes only.

The names in `__init__.pyi` are the public surface, and what a plugin may import; so are the modules
`bonsai_core.events` (what observers receive) and `bonsai_core.testing` (the laws to inherit). The names load on first
use, so that importing `bonsai_core` costs nothing.
"""

import ast
import importlib
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """The module of every public name; the stub, which type checkers read, is the one list of them."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


_HOMES = _homes()
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bonsai-prune")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
