"""Tasks of EleutherAI's lm-evaluation-harness, on loaded models."""

from __future__ import annotations

import difflib
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from bonsai_core.errors import BonsaiError


class Harness:
    """The harness's tasks, or groups of tasks, by name; `include_path` is a folder with YAML files of more tasks.

    Raises:
        BonsaiError: the harness is not installed, or has no such task.
    """

    def __init__(self, tasks: Sequence[str], include_path: str | None) -> None:
        if find_spec("lm_eval") is None:
            raise BonsaiError(
                f"{', '.join(tasks)}: not a .jsonl file, so a task of lm-evaluation-harness, which is not installed: "
                f"pip install 'bonsai-prune[lm-eval]'."
            )
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns about settings that are not the user's
        self._manager = TaskManager(include_path=include_path)
        self._tasks: list[str] = []
        self._asked = ", ".join(tasks)
        for task in tasks:
            matches = self._manager.match_tasks([task])
            if not matches:
                raise BonsaiError(
                    f"{task!r} is not a .jsonl file, and lm-evaluation-harness has no task of that name. "
                    f"{_hint(task, self._manager.all_tasks)}"
                )
            self._tasks += [name for name in matches if name not in self._tasks]
        with _its_errors(self._asked):
            self._manager.load(self._tasks)

    def measure(self, model: Any, tokenizer: Any, batch_size: int, limit: int | None) -> dict[str, dict[str, Any]]:
        """What the harness reports: per task, its metrics and their standard errors (``acc``, ``acc_stderr``).

        Raises:
            BonsaiError: it fails; the message is its own.
        """
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        # It prints; our standard output is for JSON.
        with redirect_stdout(sys.stderr), _its_errors(self._asked):
            results = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                tasks=self._tasks,
                limit=limit,
                task_manager=self._manager,
                bootstrap_iters=1000,
                log_samples=False,
            )["results"]
        return {task: _plain(metrics) for task, metrics in results.items()}


@contextmanager
def _its_errors(asked: str) -> Iterator[None]:
    """Turn whatever the harness raises into one message; it has no error class of its own."""
    try:
        yield
    except Exception as error:
        raise BonsaiError(f"lm-evaluation-harness fails on {asked}: {error} ({type(error).__name__})") from error


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """The finite numbers, without the harness's filter in their names (``acc,none``)."""
    return {
        name.removesuffix(",none").replace(",", " "): value
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _hint(task: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(task, known, n=5)
    return f"Near it: {', '.join(near)}." if near else "`lm-eval ls tasks` lists them."
