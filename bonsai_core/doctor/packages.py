"""Versions, and what is missing, by the metadata of the installed package: it is the one list of what Bonsai needs."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bonsai_core.doctor.finding import Finding
from bonsai_core.errors import shortened

OURS = "bonsai-prune"
SHOWN = ("torch", "transformers")
"""Packages that are listed even where nothing is wrong with them."""
PIP = f"{shlex.quote(sys.executable)} -m pip install"


def packages() -> Iterator[Finding]:
    """Python, Bonsai and what it needs: whether the versions are those that it promises to work with."""
    wanted = SpecifierSet(metadata(OURS)["Requires-Python"])
    here = platform.python_version()
    fits = wanted.contains(here, prereleases=True)
    advice = "" if fits else f"Install Bonsai in an environment of Python {wanted}."
    yield Finding("packages", "Python", f"{here} ({wanted})", "ok" if fits else "broken", advice)
    yield Finding("packages", OURS, version(OURS))
    needed = list(_required())
    good = 0
    for requirement in needed:
        fault = _fault(requirement)
        if fault is not None:
            advice = f"{PIP} {shlex.quote(_plain(requirement))}"
            yield Finding("packages", requirement.name, f"{fault} ({requirement.specifier})", "broken", advice)
        elif requirement.name in SHOWN:
            yield Finding("packages", requirement.name, f"{version(requirement.name)} ({requirement.specifier})")
        else:
            good += 1
    yield Finding("packages", "others", f"{good} that it needs are here, in versions that it takes")


def import_faults() -> Iterator[Finding]:
    """The packages without which nothing else can be looked at, where they cannot be imported."""
    for name in SHOWN:
        try:
            import_module(name)
        except Exception as error:  # a build for another machine may raise anything
            reason = shortened(f"{type(error).__name__}: {error}")
            advice = f"{PIP} --force-reinstall {name}"
            yield Finding("packages", name, f"cannot be imported: {reason}", "broken", advice)


def extras() -> Iterator[Finding]:
    """Optional packages by the extra that adds them."""
    for extra in metadata(OURS).get_all("Provides-Extra") or ():
        faults = {each.name: _fault(each) for each in _required(extra)}
        missing = [f"{name} {fault}" for name, fault in faults.items() if fault is not None]
        if missing:
            yield Finding("extras", extra, ", ".join(missing), "missing", f"{PIP} '{OURS}[{extra}]'")
        else:
            yield Finding("extras", extra, f"installed: {', '.join(faults)}")


def _required(extra: str = "") -> Iterator[Requirement]:
    """What Bonsai needs here, or what an extra adds to that."""
    for text in requires(OURS) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always if not extra else not always and marker is not None and marker.evaluate({"extra": extra})
        if wanted and canonicalize_name(requirement.name) == OURS:  # an extra that stands for others
            for other in requirement.extras:
                yield from _required(other)
        elif wanted:
            yield requirement


def _fault(requirement: Requirement) -> str | None:
    """What is wrong with an installed package; None if nothing is."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "is not installed"
    return None if requirement.specifier.contains(found, prereleases=True) else f"is {found}"


def _plain(requirement: Requirement) -> str:
    """What pip is told, without the conditions under which it is needed."""
    return f"{requirement.name}{requirement.specifier}"
