"""Everything that is looked at, in the order in which people read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bonsai_core.doctor.cluster import cluster
from bonsai_core.doctor.finding import Finding
from bonsai_core.doctor.hub import hub
from bonsai_core.doctor.machine import devices, disks, memory
from bonsai_core.doctor.offers import environment, plugins, runtimes
from bonsai_core.doctor.packages import extras, import_faults, packages
from bonsai_core.doctor.trial import trials
from bonsai_core.registry.registry import Registry


def examine(
    registry: Callable[[], Registry], *, online: bool = False, ray_address: str | None = None
) -> Iterator[Finding]:
    """All findings; without torch and transformers, just that they are not there.

    Args:
        registry: loads the installed plugins.
        online: whether a network may be used, to see whether the hub answers.
        ray_address: of a Ray cluster to ask, ``auto`` or HOST:PORT; None for none.
    """
    yield from packages()
    faults = list(import_faults())
    yield from faults
    if faults:
        return
    found = registry()
    yield from devices()
    yield from memory()
    yield from disks()
    yield from environment()
    yield from plugins(found)
    yield from extras()
    yield from runtimes(found)
    yield from hub() if online else ()
    yield from cluster(ray_address)
    yield from trials(found)
