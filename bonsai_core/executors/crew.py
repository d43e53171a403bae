"""Workers in other processes, and how calls are handed out to them: each is answered once, whatever dies."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError, shortened

POLL_S = 1.0
"""Seconds between two looks for workers that have joined or left."""
MOST_DEATHS = 3
"""So many workers that die of one call, or before they are ready, are enough."""
SLOW, SLOW_S = 2.0, 5.0
"""A call that takes this many times as long as the longest so far, and longer, is made by another worker too."""
LONELY_S = 60.0
"""After this time without a worker the user is told why."""
Call = tuple[object, ...]
"""The name of a worker's method, and its arguments."""


class Member(ABC):
    """A worker in a process of its own."""

    @abstractmethod
    def ask(self, method: str, *arguments: object) -> Future[Any]:
        """What one of its methods returns; it is asked one thing at a time."""

    @abstractmethod
    def end(self) -> None:
        """End its process, whatever it is doing."""


@dataclass(eq=False)
class _Turn:
    """Calls that are answered together."""

    calls: Sequence[Call]
    deaths: Counter[int] = field(default_factory=Counter)
    longest_s: float = 0.0

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.calls)))
        self.missing = set(self.waiting)

    def following(self) -> int | None:
        """The next call that nobody has made yet."""
        while self.waiting:
            if (number := self.waiting.popleft()) in self.missing:
                return number
        return None

    def accept(self, number: int, elapsed_s: float) -> bool:
        """Take note of an answer; False if there was one before."""
        new = number in self.missing
        self.missing.discard(number)
        self.longest_s = max(self.longest_s, elapsed_s)
        return new


@dataclass(eq=False)
class _Asked:
    """What a worker is doing: a call of a turn, or becoming ready, which is no call's number."""

    member: Member
    turn: _Turn | None = None
    number: int | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.since


class Crew(ABC):
    """Workers that may join and leave.

    Args:
        warn: receives what the user should know.
        welcome: receives what `about` of a worker that is ready returns.
    """

    def __init__(self, warn: Callable[[str], None], welcome: Callable[[Any], None]) -> None:
        self._warn = warn
        self._welcome = welcome
        self._idle: list[Member] = []
        self._asked: dict[Future[Any], _Asked] = {}
        self._refusals: list[str] = []
        self._stillborn = 0
        self._died_of = ""
        self._places: object = None
        self._ready_since = time.monotonic()

    @abstractmethod
    def wanted(self) -> int:
        """How many workers there could be now."""

    @abstractmethod
    def shared(self, value: Any) -> Any:
        """A value that is an argument of many calls, sent to each place only once where that can be had."""

    @abstractmethod
    def places(self) -> object:
        """Where workers can be; if that changes, those that failed get another chance."""

    @abstractmethod
    def _start(self) -> Member:
        """A new worker, which may become ready later."""

    @abstractmethod
    def _buried(self, member: Member) -> None:
        """Another worker may take the place of one that died."""

    @abstractmethod
    def _is_death(self, error: Exception) -> bool:
        """Whether a future raises this because its worker has died."""

    @abstractmethod
    def _told(self, error: Exception) -> Exception:
        """What the worker raised."""

    @abstractmethod
    def _why_alone(self) -> str:
        """Why there may be no worker yet."""

    def recruit(self) -> None:
        """Start the workers that are missing, without waiting for them."""
        places = self.places()
        if places != self._places:
            self._places, self._stillborn = places, 0
            self._refusals.clear()
        missing = self.wanted() - self._size - len(self._refusals)
        for _ in range(missing if self._stillborn < MOST_DEATHS else 0):
            member = self._start()
            self._asked[member.ask("about")] = _Asked(member)

    def answers(self, calls: Sequence[Call], here: Callable[[int], Any] | None = None) -> Iterator[tuple[int, Any]]:
        """(number of a call, its answer), in the order in which they come in.

        Args:
            here: answers the call of a number in this process, which works too then.

        Raises:
            BonsaiError: what a call raised; or, without `here`, workers keep dying, or all are refused.
        """
        turn, looked = _Turn(calls), -POLL_S
        self._ready_since = time.monotonic()
        while turn.missing:
            if time.monotonic() - looked >= POLL_S:
                self.recruit()
                looked = time.monotonic()
            self._hand_out(turn)
            number = self._call_for(turn) if here is not None else None
            if here is not None and number is not None:
                start = time.monotonic()
                answer = here(number)
                if turn.accept(number, time.monotonic() - start):
                    yield number, answer
            for future in self._finished(POLL_S if number is None else 0):
                asked = self._asked.pop(future)
                answered, answer = self._answer(future, asked, turn)
                if answered and asked.number is not None and turn.accept(asked.number, asked.elapsed_s):
                    yield asked.number, answer
            if here is None and turn.missing:
                self._check_company()

    def close(self) -> None:
        """End all workers."""
        for member in [*self._idle, *(asked.member for asked in self._asked.values())]:
            member.end()
        self._idle.clear()
        self._asked.clear()

    @property
    def _size(self) -> int:
        return len(self._idle) + len(self._asked)

    def _hand_out(self, turn: _Turn) -> None:
        while self._idle:
            number = self._call_for(turn)
            if number is None:
                return
            method, *arguments = turn.calls[number]
            member = self._idle.pop(0)
            self._asked[member.ask(str(method), *arguments)] = _Asked(member, turn, number)

    def _call_for(self, turn: _Turn) -> int | None:
        """What somebody who has nothing to do can do."""
        number = turn.following()
        return self._late(turn) if number is None else number

    def _late(self, turn: _Turn) -> int | None:
        """A call that takes much longer than others did, if only one worker is at it."""
        own = [asked for asked in self._asked.values() if asked.turn is turn and asked.number in turn.missing]
        copies = Counter(asked.number for asked in own)
        for asked in own:
            if turn.longest_s and copies[asked.number] == 1 and asked.elapsed_s > max(SLOW_S, SLOW * turn.longest_s):
                return asked.number
        return None

    def _finished(self, timeout_s: float) -> set[Future[Any]]:
        if not self._asked:
            time.sleep(timeout_s)
        return wait(self._asked, timeout_s, FIRST_COMPLETED).done

    def _answer(self, future: Future[Any], asked: _Asked, turn: _Turn) -> tuple[bool, Any]:
        """Whether a worker has answered one of the turn's calls, and what."""
        of_turn = asked.turn is turn
        try:
            answer = future.result()
        except Exception as error:
            if self._is_death(error):
                self._bury(asked, turn, error)
                return False, None
            told = self._told(error)
            if asked.turn is None:
                asked.member.end()
                self._refusals.append(str(told))
                self._warn(f"A worker cannot take part. {told}")
                return False, None
            if not isinstance(told, BonsaiError):  # its device or its disk may be broken, and others' are not
                self._bury(asked, turn, told)
                return False, None
            self._idle.append(asked.member)
            if not of_turn:
                return False, None
            raise told from error
        self._idle.append(asked.member)
        if asked.turn is None:
            self._stillborn = 0
            self._welcome(answer)
        return of_turn, answer

    def _bury(self, asked: _Asked, turn: _Turn, error: Exception) -> None:
        """Have the call of a worker that died made by another one."""
        asked.member.end()
        self._buried(asked.member)
        why = first_line(error)
        if asked.turn is None:
            self._stillborn += 1
            self._died_of = why
            last = " No more are started." if self._stillborn == MOST_DEATHS else ""
            self._warn(f"A worker died before it was ready ({why}).{last}")
            return
        again = asked.turn is turn and asked.number is not None and asked.number in turn.missing
        self._warn(f"A worker died ({why}).{' Another one gets its batch.' if again else ''}")
        if again and asked.number is not None:
            turn.deaths[asked.number] += 1
            if turn.deaths[asked.number] >= MOST_DEATHS:
                raise BonsaiError(
                    f"{MOST_DEATHS} workers died of the same batch ({why}). If memory is short, give a smaller "
                    f"--batch-tokens or --batch-size; then resume the run."
                ) from error
            turn.waiting.appendleft(asked.number)

    def _check_company(self) -> None:
        """Say so if there is no worker, and end if there will be none."""
        if self._idle or any(asked.turn is not None for asked in self._asked.values()):
            self._ready_since = time.monotonic()
            return
        if self._refusals and not self._asked:
            raise BonsaiError(f"No worker can take part. {self._refusals[-1]}")
        if self._stillborn >= MOST_DEATHS and not self._size:
            raise BonsaiError(
                f"{MOST_DEATHS} workers died before they were ready ({self._died_of}). A common reason is that the "
                f"model does not fit into memory once for each worker: give fewer --workers."
            )
        if time.monotonic() - self._ready_since > LONELY_S:
            self._ready_since = time.monotonic() + 10 * LONELY_S  # not so soon again
            self._warn(self._why_alone())


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return visible(shortened((str(error).strip() or type(error).__name__).splitlines()[0]))
