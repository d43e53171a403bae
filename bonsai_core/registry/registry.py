"""Finds plugins, checks once what they offer, and names the plugin at fault when something is wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import pluggy
from pydantic import ValidationError

from bonsai_core import hookspecs
from bonsai_core.config import PluginChoice
from bonsai_core.contracts import (
    Component,
    Estimator,
    Exporter,
    Family,
    InputCompensator,
    InputPrior,
    LayerPrior,
    Metric,
    MomentCompensator,
    MomentPrior,
    Recipe,
    Sampler,
    Tracker,
    WeightCompensator,
    WeightPrior,
)
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.events import Event
from bonsai_core.settings.schema import describe_faults, where

ENTRY_POINT_GROUP = "bonsai"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_-]*")
COMPONENTS: Mapping[str, tuple[type[Component], ...]] = {
    "prior": (WeightPrior, InputPrior, LayerPrior, MomentPrior),
    "sampler": (Sampler,),
    "metric": (Metric,),
    "estimator": (Estimator,),
    "compensator": (WeightCompensator, InputCompensator, MomentCompensator),
    "exporter": (Exporter,),
    "tracker": (Tracker,),
}
"""Per kind, the classes of which a component must inherit one."""
DECLARATIONS: Mapping[str, type[Family] | type[Recipe]] = {"slicer": Family, "recipe": Recipe, "adaptation": Recipe}
KINDS = (*COMPONENTS, *DECLARATIONS)


@dataclass(frozen=True)
class Offer:
    """One thing a plugin offers under one name."""

    kind: str
    name: str
    item: type[Component] | Family | Recipe
    source: str

    @property
    def summary(self) -> str:
        """One line about it, for listings."""
        if isinstance(self.item, Family):
            return "for model types " + ", ".join(self.item.model_types)
        return self.item.summary if isinstance(self.item, Recipe) else self.item.summary()


@dataclass(frozen=True)
class Problem:
    """Something a plugin did wrong; it stops nobody else."""

    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


class Registry:
    """Everything the installed plugins offer.

    Args:
        points: entry points to load; None: all of the group ``bonsai``.
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self.problems: list[Problem] = []
        self._offers: dict[tuple[str, str], list[Offer]] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for point in sorted(entry_points(group=ENTRY_POINT_GROUP) if points is None else points, key=_source):
            self._load(point)

    def register(self, plugin: object, source: str) -> None:
        """Add a plugin object by hand; `source` names it in messages. Faults raise at once."""
        faults = self._add(plugin, source)
        if faults:
            raise BonsaiError("; ".join(str(p) for p in faults))

    @contextmanager
    def observed_by(self, observer: object, source: str) -> Iterator[None]:
        """While open, `observer` receives every event; `source` names it in messages."""
        try:
            self.register(observer, source)
            yield
        finally:
            if self._manager.is_registered(observer):
                self._manager.unregister(observer)
            for rows in self._offers.values():
                rows[:] = [row for row in rows if row.source != source]

    def offers(self, kind: str) -> list[Offer]:
        """All usable offers of a kind, by name."""
        return [rows[0] for (k, _), rows in sorted(self._offers.items()) if k == kind and len(rows) == 1]

    def clashes(self) -> list[tuple[Offer, ...]]:
        """Offers of one kind and name by several plugins: none of them can be chosen."""
        return [tuple(rows) for _, rows in sorted(self._offers.items()) if len(rows) > 1]

    def plugins(self) -> list[tuple[str, object]]:
        """Everything registered, observers too, as source and object."""
        return self._manager.list_name_plugin()

    def component_class(self, kind: str, name: str) -> type[Component]:
        """The class registered under a name.

        Raises:
            UnknownNameError: nothing usable is; the message lists what is and which plugins failed.
        """
        item = self._offer(kind, name).item
        assert isinstance(item, type)
        return item

    def create(self, kind: str, choice: PluginChoice) -> Component:
        """A component with the chosen options.

        Raises:
            UnknownNameError: no such component.
            BonsaiError: an option is unknown or has the wrong type.
        """
        cls = self.component_class(kind, choice.name)
        try:
            return cls(**choice.options)
        except ValidationError as error:
            raise BonsaiError(_option_faults(kind, cls, error)) from None

    def families(self) -> list[Family]:
        """All declared model families."""
        return [cast(Family, offer.item) for offer in self.offers("slicer")]

    def family(self, name: str) -> Family:
        """The family declared under a name."""
        return cast(Family, self._offer("slicer", name).item)

    def recipe(self, name: str, kind: str = "recipe") -> Mapping[str, Any]:
        """The settings of a named recipe, of a run or (``adaptation``) of an adaptation."""
        return cast(Recipe, self._offer(kind, name).item).settings

    def observe(self, event: Event) -> None:
        """Notify every observer."""
        self._manager.hook.bonsai_observe(event=event)

    def _offer(self, kind: str, name: str) -> Offer:
        rows = self._offers.get((kind, name), [])
        if len(rows) > 1:
            raise BonsaiError(clash_text(rows))
        if not rows:
            broken = " ".join(f"[{problem}]" for problem in self.problems)
            hint = f"Plugins with problems: {broken}" if broken else ""
            raise UnknownNameError(kind, name, (offer.name for offer in self.offers(kind)), hint)
        return rows[0]

    def _load(self, point: EntryPoint) -> None:
        source = _source(point)
        try:
            plugin = point.load()
        except Exception as error:  # a stranger's import may raise anything; it is reported when asked for
            self.problems.append(Problem(source, f"failed to import: {type(error).__name__}: {error}"))
            return
        self.problems.extend(self._add(plugin, source))

    def _add(self, plugin: object, source: str) -> list[Problem]:
        faults = [Problem(source, text) for text in _hook_faults(plugin)]
        if faults:
            return faults
        if self._manager.get_plugin(source) is not None:
            return [Problem(source, "is registered twice")]
        if self._manager.is_registered(plugin):
            first = self._manager.get_name(plugin)
            return [Problem(source, f"is the same plugin as {first}; one entry point is enough")]
        self._manager.register(plugin, name=source)
        for kind in KINDS:
            hook = getattr(plugin, f"bonsai_{kind}s", None)
            if hook is not None:
                faults += self._collect(kind, hook, source)
        return faults

    def _collect(self, kind: str, hook: Any, source: str) -> list[Problem]:
        try:
            items = hook()
        except Exception as error:  # as for imports: reported, and stops nobody else
            return [Problem(source, f"bonsai_{kind}s() raised {type(error).__name__}: {error}")]
        if not isinstance(items, Sequence) or isinstance(items, str):
            return [Problem(source, f"bonsai_{kind}s() must return a list, not {type(items).__name__}")]
        faults = []
        for item in items:
            fault = _item_fault(kind, item)
            if fault:
                faults.append(Problem(source, fault))
            else:
                self._offers.setdefault((kind, item.name), []).append(Offer(kind, item.name, item, source))
        return faults


def clash_text(offers: Sequence[Offer]) -> str:
    """What is wrong with offers of one kind and name, and what to do."""
    owners = " and ".join(sorted(offer.source for offer in offers))
    return f"The {offers[0].kind} {offers[0].name!r} is offered twice, by {owners}. Uninstall or rename one of them."


def distribution_of(source: str) -> str:
    """The package of a source, which also names the entry point."""
    return source.split(" ")[0]


def _source(point: EntryPoint) -> str:
    """Distribution and entry point: unique even where two distributions use one entry point name."""
    distribution = point.dist.name if point.dist else "?"
    return f"{distribution} (entry point {point.name!r} = {point.value})"


def _hook_faults(plugin: object) -> list[str]:
    """What pluggy accepts silently: unknown names, missing marks, defaults, unknown parameters."""
    known = {name: inspect.signature(spec) for name, spec in vars(hookspecs).items() if name.startswith("bonsai_")}
    faults = []
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        if not inspect.isroutine(function):
            continue
        marked = hasattr(function, f"{hookspecs.PROJECT}_impl")
        if not (marked or name.startswith("bonsai_")):
            continue
        if name not in known:
            faults.append(str(UnknownNameError("hook", name, known)))
            continue
        if not marked:
            faults.append(f"{name} lacks the @hookimpl mark (from bonsai_core import hookimpl)")
        expected = list(known[name].parameters)
        parameters = inspect.signature(function).parameters.values()
        if [p.name for p in parameters] != expected or any(p.default is not p.empty for p in parameters):
            faults.append(f"{name} must take ({', '.join(expected)}), without defaults")
    return faults


def _item_fault(kind: str, item: object) -> str | None:
    returned = f"bonsai_{kind}s() returned {item!r}, which is not"
    if kind in DECLARATIONS:
        declared = DECLARATIONS[kind]
        return None if isinstance(item, declared) else f"{returned} a {declared.__name__}"
    bases = COMPONENTS[kind]
    if not (isinstance(item, type) and issubclass(item, bases)):
        *others, last = [base.__name__ for base in bases]
        return f"{returned} a subclass of {', '.join(others)}{' or ' if others else ''}{last}"
    several = [base.__name__ for base in bases if issubclass(item, base)]
    if len(several) > 1:
        return f"{kind} {item.__name__} inherits {' and '.join(several)}: choose one"
    if inspect.isabstract(item):
        missing = ", ".join(sorted(item.__abstractmethods__))
        return f"{kind} {item.__name__} does not define {missing}"
    name = getattr(item, "name", None)
    if not (isinstance(name, str) and NAME_PATTERN.fullmatch(name)):
        return f"{kind} {item.__name__} needs a lower-case `name`, not {name!r}"
    if issubclass(item, InputCompensator | MomentCompensator) and not (item.changes_weights or item.adds_bias):
        return f"{kind} {item.__name__} must set changes_weights or adds_bias; with neither it is never called"
    return None


def _option_faults(kind: str, cls: type[Component], error: ValidationError) -> str:
    def describe(row: Any, words: str) -> str:
        option = where(row)
        if row["type"] == "extra_forbidden":
            return str(UnknownNameError(f"option of the {kind} {cls.name!r} named", option, cls.model_fields))
        return f"{kind}.{option} of {cls.name!r}: {words}" if option else f"{kind} {cls.name!r}: {words}"

    return describe_faults(error, describe)
