"""Writes the package of a new plugin: a small example of its kind that works, with its tests and a README."""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import bonsai_core
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.registry.registry import KINDS, Registry
from bonsai_core.scaffold.names import PluginNames, checked_names

TEMPLATES = Path(__file__).with_name("templates")
OBSERVER = "observer"
PLUGIN_KINDS = (*KINDS, OBSERVER)
"""Kinds of plugin that there are templates for: all."""


def write_plugin(package: str, kind: str, folder: Path, registry: Registry) -> Path:
    """Write a package into a new folder of its name; nothing is left of it if that fails.

    Args:
        package: name of the distribution, such as ``bonsai-peak``; users will choose the plugin as ``peak``.
        kind: one of `PLUGIN_KINDS`.
        folder: where the new folder goes.
        registry: the plugins whose names are taken.

    Returns:
        The new folder.

    Raises:
        BonsaiError: there is no such kind, a name is not valid or taken, the folder exists or cannot be written.
    """
    if kind not in PLUGIN_KINDS:
        raise UnknownNameError("kind of plugin", kind, PLUGIN_KINDS)
    names = checked_names(package, kind, registry)
    path = folder / package
    if os.path.lexists(path):
        raise BonsaiError(f"{path} exists already, and nothing is overwritten. Choose another name, or move it away.")
    files = _rendered(names, kind)
    if names.class_name in _imported(files, names.module):
        raise BonsaiError(
            f"A package cannot be called {package!r}: the class would be called {names.class_name}, as one that it "
            f"imports. Choose another name, such as bonsai-peak."
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{package}-") as temporary:
            made = Path(temporary, package)
            made.mkdir()
            for name, text in files.items():
                (made / name).write_text(text, encoding="utf-8")
            made.rename(path)
    except OSError as error:
        raise BonsaiError(f"Cannot write {path}: {error.strerror}. Make room, or go to another folder.") from None
    return path


def _rendered(names: PluginNames, kind: str) -> dict[str, str]:
    """The files by their names."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # listings do without

    environment = Environment(  # of Python and TOML: nothing is escaped, and names are letters, digits and hyphens
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    templates = {
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
        f"{names.module}.py": f"{kind}/module.py.jinja",
        f"test_{names.module}.py": f"{kind}/tests.py.jinja",
    }
    needs = requirement(bonsai_core.__version__)
    return {
        name: environment.get_template(template).render(names=names, kind=kind, requirement=needs)
        for name, template in templates.items()
    }


def _imported(files: Mapping[str, str], own: str) -> set[str]:
    """The names that Python files import from elsewhere than the module `own`."""
    trees = [ast.parse(text) for name, text in files.items() if name.endswith(".py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    others = (node for node in nodes if not (isinstance(node, ast.ImportFrom) and node.module == own))
    return {alias.name for node in others for alias in node.names}


def requirement(version: str) -> str:
    """What a plugin asks for: this version or a later one that breaks nothing, see "What versions promise".

    Before 1.0 that is the same minor version, ``bonsai-prune>=0.2,<0.3``; from then on the same major one.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    end = f"0.{minor + 1}" if major == 0 else f"{major + 1}"
    return f"bonsai-prune>={major}.{minor},<{end}"
