"""What a new plugin and its parts are called, and which names are free."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from bonsai_core.errors import BonsaiError, shown
from bonsai_core.registry.registry import Registry, distribution_of

PREFIX = "bonsai-"
PACKAGE_PATTERN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 60
"""Characters: lines of the templates stay below 120 with it."""


@dataclass(frozen=True)
class PluginNames:
    """The names of a new plugin: all follow from that of its package.

    Attributes:
        package: of the distribution, such as ``bonsai-peak``.
    """

    package: str

    @property
    def module(self) -> str:
        """What Python imports: ``bonsai_peak``."""
        return self.package.replace("-", "_")

    @property
    def name(self) -> str:
        """What users type to choose it: ``peak``."""
        return self.package.removeprefix(PREFIX)

    @property
    def class_name(self) -> str:
        """Of the class: ``Peak``."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def constant(self) -> str:
        """Of a declaration: ``PEAK``."""
        return self.name.replace("-", "_").upper()


def checked_names(package: str, kind: str, registry: Registry) -> PluginNames:
    """The names of a new plugin.

    Raises:
        BonsaiError: the package's name is not valid, or it or one that follows from it is taken.
    """
    if len(package) > LONGEST or not PACKAGE_PATTERN.fullmatch(package):
        raise BonsaiError(
            f"A package cannot be called {shown(package)}. Take lower-case letters, digits and single hyphens, a "
            f"letter first, at most {LONGEST} in all, such as bonsai-peak."
        )
    names = PluginNames(package)
    fault = _fault(names, kind, registry)
    if fault:
        raise BonsaiError(f"A package cannot be called {package!r}: {fault}. Choose another name, such as bonsai-peak.")
    return names


def _fault(names: PluginNames, kind: str, registry: Registry) -> str | None:
    if not names.name[0].isalpha():
        return f"the plugin would be called {names.name!r}, and must begin with a letter"
    if keyword.iskeyword(names.module) or names.module in sys.stdlib_module_names:
        return f"{names.module!r} is a word or a module of Python's own"
    if names.class_name in vars(builtins):
        return f"the class would be called {names.class_name}, as one of Python's own"
    with suppress(PackageNotFoundError):
        return f"{distribution(names.package).name} is installed already"
    if find_spec(names.module) is not None:
        return f"the Python module {names.module} is installed already"
    owners = [distribution_of(offer.source) for offer in registry.offers(kind) if offer.name == names.name]
    return f"{owners[0]} offers {'an' if kind[0] in 'aeiou' else 'a'} {kind} {names.name!r} already" if owners else None
