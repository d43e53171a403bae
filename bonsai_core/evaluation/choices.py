"""Multiple-choice tasks by log-likelihood: accuracies, their standard errors, and how sure a difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Answers


@dataclass(frozen=True)
class TaskScore:
    """What a model got right.

    Attributes:
        right_Q: by plain log-likelihood, per question.
        right_norm_Q: by log-likelihood per byte of the choice (lm-evaluation-harness calls it acc_bytes).
    """

    right_Q: NDArray[np.bool_]
    right_norm_Q: NDArray[np.bool_]

    @classmethod
    def of(cls, answers: Sequence[Answers]) -> TaskScore:
        """The score of a model's answers; one that is not finite is wrong."""
        finite = np.array([np.isfinite(a.log_likelihood).all() for a in answers])
        plain = [int(np.argmax(a.log_likelihood)) == a.gold for a in answers]
        normalised = [int(np.argmax(a.log_likelihood / a.num_bytes)) == a.gold for a in answers]
        return cls(np.array(plain) & finite, np.array(normalised) & finite)

    def describe(self, dense: TaskScore | None) -> dict[str, Any]:
        """Numbers for a report: accuracies as fractions, with the standard errors of means.

        Args:
            dense: the dense model's score on the same questions; with it, the differences to it and their standard
                errors, which are smaller than those of the two accuracies, because the questions are the same.
        """
        numbers: dict[str, Any] = {"questions": len(self.right_Q)}
        for name in ("accuracy", "accuracy_norm"):
            right_Q = self._of(name)
            numbers[name], numbers[f"{name}_stderr"] = _mean(right_Q)
            if dense is not None:
                change, error = _mean(right_Q.astype(float) - dense._of(name))
                numbers[f"{name}_change"], numbers[f"{name}_change_stderr"] = change, error
        return numbers

    def _of(self, name: str) -> NDArray[np.bool_]:
        return self.right_norm_Q if name == "accuracy_norm" else self.right_Q


def _mean(values_Q: NDArray[Any]) -> tuple[float, float | None]:
    """The mean, and its standard error from the sample's variance; None for a single value."""
    error = float(np.std(values_Q, ddof=1)) / math.sqrt(len(values_Q)) if len(values_Q) > 1 else None
    return float(np.mean(values_Q)), error
