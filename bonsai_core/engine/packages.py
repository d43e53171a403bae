"""The packages that a run's plugins come from."""

from __future__ import annotations

from bonsai_core.config import PluginChoice
from bonsai_core.engine.job import Job
from bonsai_core.registry.registry import COMPONENTS, Registry, distribution_of


def plugin_packages(job: Job, registry: Registry) -> list[str]:
    """Their names, in order; of a plugin that was registered by hand, what it was registered as."""
    choices = {kind: getattr(job.config, kind, None) for kind in COMPONENTS}
    chosen = {kind: choice.name for kind, choice in choices.items() if isinstance(choice, PluginChoice)}
    chosen["slicer"] = job.parent.family.name
    offers = (offer for kind, name in chosen.items() for offer in registry.offers(kind) if offer.name == name)
    return sorted({distribution_of(offer.source) for offer in offers})
