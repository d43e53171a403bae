"""The ledger: what a run has measured and decided, in order and durable; and the events that observers receive."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core.events import Event, Stage, StageStarted, TokensDone, Warned
from bonsai_core.rundir.arrays import load_array, save_arrays
from bonsai_core.rundir.directory import JournaledDirectory
from bonsai_core.rundir.identity import refuse_changes
from bonsai_core.rundir.journal import Journal, Payload
from bonsai_core.rundir.measurement_cache import Arrays, MeasurementCache
from bonsai_core.rundir.versions import versions

Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """Something that a run computes once.

    Attributes:
        name: unique in its round, or in the run where it belongs to no round.
        round: number of its round, from 1; 0 for none.
        tokens: tokens of its forward passes; they count as replayed where nothing is computed.
    """

    name: str
    round: int = 0
    tokens: int = 0

    @property
    def key(self) -> str:
        """Its key in the journal."""
        return f"round-{self.round}/{self.name}" if self.round else self.name


IDENTITY = Step("run")
"""What a run was started with."""


class Ledger:
    """Computes steps that the run has not finished, and remembers the others.

    Steps are pure functions. The ledger makes their results durable, times each without the steps inside of it, counts
    the tokens that a resumed or a cached step does not compute again, and notifies observers.

    Args:
        directory: of the run, which the process has locked.
        cache: measurements of the dense model that several runs have in common, if they have any.
    """

    def __init__(
        self,
        directory: JournaledDirectory,
        journal: Journal,
        observe: Callable[[Event], None],
        cache: MeasurementCache | None = None,
    ) -> None:
        self.directory = directory
        self.journal = journal
        self.notify = observe
        self._cache = cache
        self._nested_s = [0.0]  # of each running step, the innermost last: seconds that the steps inside it took

    def __contains__(self, step: Step) -> bool:
        return step.key in self.journal

    @property
    def has_cache(self) -> bool:
        """Whether other runs may have measured the dense model already."""
        return self._cache is not None

    def begin(self, stage: Stage, text: str, round_number: int = 0) -> None:
        """Notify observers of what comes next."""
        self.notify(StageStarted(stage, round_number, text))

    def warn(self, text: str) -> None:
        """Notify observers of what the user should know."""
        self.notify(Warned(text))

    def skip(self, tokens: int) -> None:
        """Count tokens that need not go through the model again."""
        if tokens:
            self.notify(TokensDone(tokens, replayed=True))

    def once(
        self, step: Step, compute: Callable[[], Payload], *, holds: Callable[[Payload], bool] = lambda payload: True
    ) -> Payload:
        """The payload of a step, computed unless it is in the journal.

        Args:
            holds: whether the files of the step, such as a checkpoint, are still as its payload says. If not, it is
                computed again; the first payload stays.

        Raises:
            BonsaiError: the journal cannot be written.
        """
        journaled = self.journal.get(step.key)
        if journaled is not None and holds(journaled):
            self.skip(step.tokens)
            return journaled
        self.record(step, *self._timed(compute))
        return self.journal[step.key]

    def each(self, computed: Iterator[tuple[Step, Payload]]) -> Iterator[tuple[Step, Payload]]:
        """Journal the payloads of steps as they are computed, in whatever order.

        Raises:
            BonsaiError: the journal cannot be written.
        """
        while True:
            following, elapsed_s = self._timed(lambda: next(computed, None))
            if following is None:
                return
            self.record(*following, elapsed_s)
            yield following

    def check_identity(
        self, step: Step, identity: Payload, checked: Collection[str], plugins: Collection[str] = ()
    ) -> None:
        """Refuse to continue with another text, model or setting than the run was started with.

        Args:
            identity: recorded by the first process, with the versions of packages; other versions are warned of.
            checked: keys of `identity` that must not have changed.
            plugins: packages that plugins come from, whose versions are recorded too.

        Raises:
            BonsaiError: one has; the message says which.
        """
        now = versions(plugins)
        started = self.once(step, lambda: {**identity, "versions": now})
        for what in checked:
            refuse_changes(what, started.get(what, {}), identity.get(what, {}))
        if started["versions"] != now:
            self.warn(f"Started with {started['versions']}, resumed with {now}.")

    def timed(self, step: Step, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, which every process needs in memory; the journal has the time of the first one.

        Raises:
            BonsaiError: the journal cannot be written.
        """
        result, elapsed_s = self._timed(compute)
        self.record(step, {}, elapsed_s)
        return result

    def record(self, step: Step, payload: Payload, elapsed_s: float) -> None:
        """Journal the payload of a step that the caller has timed; if it is there already, the first one stays.

        Raises:
            BonsaiError: the journal cannot be written.
        """
        if step not in self:
            self.journal.append(step.key, payload, elapsed_s)

    def once_with_array(
        self,
        step: Step,
        compute: Callable[[], tuple[Payload, Arrays]],
        *,
        name: str,
        kind: type[np.generic],
        length: int,
    ) -> tuple[Payload, NDArray[Any]]:
        """As `once`, of a step that computes arrays too, which are stored in the run directory.

        Args:
            name, kind, length: of the array that is wanted, which has one dimension.

        Returns:
            The payload, and the wanted array.

        Raises:
            BonsaiError: as for `once`, or the array of a finished step is gone or not what was written.
        """
        computed: Arrays = {}
        path = self.directory.array_path(step.round, step.name)

        def save() -> Payload:
            nonlocal computed
            payload, computed = compute()
            with self.directory.writing(str(path)):
                return {**payload, "sha256": save_arrays(path, computed)}

        payload = self.once(step, save)
        if name in computed:
            return payload, computed[name]
        return payload, load_array(path, name, payload["sha256"], kind=kind, length=length)

    def cached(self, cache_key: Mapping[str, Any] | None, tokens: int, compute: Callable[[], Arrays]) -> Arrays:
        """Arrays that another run may have measured of the same dense model.

        Args:
            cache_key: everything that decides them, as plain data; None if no other run can have them.

        Raises:
            BonsaiError: the cache cannot be written.
        """
        if self._cache is None or cache_key is None:
            return compute()
        measured = self._cache.once(cache_key, compute)
        self._nested_s[-1] += measured.waited_s
        if measured.hit:
            self.skip(tokens)
            self._nested_s[-1] -= measured.seconds  # they count as if the step around had taken them
        return measured.arrays

    def _timed(self, compute: Callable[[], Result]) -> tuple[Result, float]:
        """What `compute` returns, and the seconds it took without the steps inside of it."""
        self._nested_s.append(0.0)
        start = time.perf_counter()
        try:
            result = compute()
        finally:
            elapsed_s = time.perf_counter() - start
            nested_s = self._nested_s.pop()
            self._nested_s[-1] += elapsed_s
        return result, max(0.0, elapsed_s - nested_s)
