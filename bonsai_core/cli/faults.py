"""Whose fault an exception is that nobody expected: that of a plugin from outside, or Bonsai's."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import ModuleType

from bonsai_core.errors import shortened
from bonsai_core.registry.registry import KINDS, Offer, Registry, distribution_of

OWN = "bonsai-prune"


def fault_in_plugin(error: Exception, registry: Registry) -> str | None:
    """What to say of an exception that was raised in a plugin's code, or in what that called.

    Returns:
        Which plugin it is, where in its code, and what to do; None if no plugin from outside was at work.
    """
    offers = [offer for kind in KINDS for offer in registry.offers(kind)]
    sources = _sources(registry, offers)
    tb = traceback.walk_tb(error.__traceback__)
    frames = [(frame, line) for frame, line in tb if _top(frame.f_globals.get("__name__", "")) in sources]
    if not frames:
        return None
    frame, line = frames[-1]
    source = sources[_top(frame.f_globals["__name__"])]
    at_work = (frame.f_locals.get("self") for frame, _ in reversed(frames))
    theirs = [offer for offer in offers if offer.source == source]
    chosen = next((offer for self in at_work for offer in theirs if _is_of(self, offer)), None)
    where = f"{Path(frame.f_code.co_filename).name}, line {line}"
    what = f"{type(error).__name__}: {shortened(str(error))} ({where})"
    package = distribution_of(source)
    if chosen is None:  # an observer or a hook, which has no name
        return f"This is a fault in a plugin of {package}, not in Bonsai: {what}. Report it to its authors."
    return (
        f"This is a fault in the plugin {chosen.name} of {package}, not in Bonsai: {what}. "
        f"`bonsai plugins --check {chosen.kind}/{chosen.name}` may show it; report it to its authors."
    )


def _sources(registry: Registry, offers: list[Offer]) -> dict[str, str]:
    """The source of each package with code of plugins from outside, by its name in Python."""
    modules = [(source, _module(plugin)) for source, plugin in registry.plugins()]
    modules += [(offer.source, offer.item.__module__) for offer in offers if isinstance(offer.item, type)]
    own = {_top(__name__)} | {_top(module) for source, module in modules if distribution_of(source) == OWN}
    return {_top(module): source for source, module in modules if _top(module) not in own}


def _module(plugin: object) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_of(component: object, offer: Offer) -> bool:
    return isinstance(offer.item, type) and isinstance(component, offer.item)
