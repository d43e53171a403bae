"""A worker without a model, for tests of what hands out calls. It is apart, for its processes start faster so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from bonsai_core.errors import BonsaiError


class Echo:
    """A worker that answers at once, or does what it is told."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def about(self) -> str:
        if refusal := self._plan.get("refusal"):
            raise BonsaiError(refusal)
        if self._plan.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        return "an echo"

    def twice(self, number: int) -> int:
        return 2 * number

    def where(self, number: int) -> int:
        time.sleep(0.1)
        return os.getpid()

    def fail(self, number: int) -> int:
        raise BonsaiError(f"{number} cannot be")

    def die_once(self, number: int, mark: str) -> int:
        """Die at the first call that finds no such file."""
        if _is_first(mark):
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * number

    def break_once(self, number: int, mark: str) -> int:
        """Fail at the first call that finds no such file, as a broken device does."""
        if _is_first(mark):
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return 2 * number

    def die(self, number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    def sleep_once(self, number: int, mark: str) -> int:
        """Take very long at the first call that finds no such file."""
        if _is_first(mark):
            time.sleep(600)
        return 2 * number


def _is_first(mark: str) -> bool:
    """Whether nobody has asked this before."""
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
