"""Multiple-choice questions, so that a model can be pruned for a task."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bonsai_core import Answers, ChoiceMetric


class Choice(ChoiceMetric):
    """How well multiple-choice questions are answered: accuracy, or the log-likelihood of the right choice.

    Choices are scored by their log-likelihood after the question (Brown et al. 2020, arXiv:2005.14165, section 2.4).
    Accuracy is what people quote, but it changes in steps of one question; the likelihood of the right choice among all
    of a question's choices says more per forward pass.
    """

    name: ClassVar[str] = "choice"
    measures: Literal["likelihood", "accuracy"] = Field(
        "likelihood",
        description="likelihood: mean log-probability of the right choice among its question's choices, nats; "
        "accuracy: the share of questions answered right.",
    )
    per_byte: bool = Field(False, description="Divide scores by the choices' lengths, as length-normalised accuracy.")

    def per_question(self, answers: Answers) -> float:
        from scipy.special import log_softmax

        scores = answers.log_likelihood / answers.num_bytes if self.per_byte else answers.log_likelihood
        if self.measures == "accuracy":
            return float(np.isfinite(scores).all() and np.argmax(scores) == answers.gold)
        return float(log_softmax(scores)[answers.gold])
