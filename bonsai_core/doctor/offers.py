"""Plugins, the runtimes that exporters write for, and settings from the environment."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.config import RunConfig
from bonsai_core.doctor.finding import Finding
from bonsai_core.errors import BonsaiError
from bonsai_core.publishing.names import without_credentials
from bonsai_core.registry.registry import KINDS, Registry, distribution_of

PREFIX = "BONSAI_"
SHOWN = {
    *(f"{PREFIX}{name.upper()}" for name in (*RunConfig.model_fields, "config", "cache")),
    *(f"{PREFIX}ADAPT_{name.upper()}" for name in (*AdaptConfig.model_fields, "config")),
}
"""Variables whose values are shown: those of settings. Of others, only paths are."""


def plugins(registry: Registry) -> Iterator[Finding]:
    """What is offered, by distribution, and what is wrong."""
    offers = [offer for kind in KINDS for offer in registry.offers(kind)]
    for source in dict.fromkeys(distribution_of(offer.source) for offer in offers):
        number = sum(distribution_of(offer.source) == source for offer in offers)
        yield Finding("plugins", source, f"{number} plugin{'s' * (number > 1)}")
    for problem in registry.problems:
        advice = f"Update or uninstall {distribution_of(problem.source)}; the others work without it."
        yield Finding("plugins", problem.source, problem.text, "broken", advice)
    for clash in registry.clashes():
        owners = " and ".join(sorted(distribution_of(offer.source) for offer in clash))
        found = f"is offered twice, by {owners}, so that it cannot be chosen"
        yield Finding("plugins", f"{clash[0].kind} {clash[0].name}", found, "broken", "Uninstall one of them.")


def runtimes(registry: Registry) -> Iterator[Finding]:
    """Of each exporter, whether it can write here, and whether its runtime is in this environment."""
    from bonsai_core.runtimes.formats import exporters

    for format_, exporter in exporters(registry).items():
        name = f"{exporter.runtime} ({format_})"
        try:
            exporter.check_ready()
        except BonsaiError as error:
            yield Finding("runtimes", name, "cannot be written here", "missing", str(error))
            continue
        missing = [] if exporter.runner is None else _missing(exporter.runner)
        if missing:
            found = f"can be written, but not run or verified here, where {' and '.join(missing)} cannot be imported"
            advice = "Name the interpreter of an environment that has it: --python PATH."
            yield Finding("runtimes", name, found, "missing", advice)
        elif exporter.runner is None:
            yield Finding("runtimes", name, "can be written")
        else:
            yield Finding("runtimes", name, "can be written, run and verified")


def environment() -> Iterator[Finding]:
    """Variables that set something without being asked on the command line.

    Values that may be secret are not shown: those of options of plugins, such as the address of a tracker.
    """
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIX):
            shown = name in SHOWN or Path(value).is_absolute()
            yield Finding("environment", name, without_credentials(value) if shown else "is set", "note")


def _missing(runner: Path) -> list[str]:
    """Packages that a runner imports and that are not here."""
    nodes = list(ast.walk(ast.parse(runner.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    tops = dict.fromkeys(name.split(".")[0] for name in names)
    return [name for name in tops if name not in sys.stdlib_module_names and find_spec(name) is None]
