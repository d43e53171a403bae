"""What a metric sees of a sub-model: its predictions on the round's calibration data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import Answers
from bonsai_core.contracts.metric import PerToken
from bonsai_core.model.forward.padding import PaddedBatch
from bonsai_core.model.forward.predictions import DenseSide, Predictions
from bonsai_core.sources import Question


@dataclass(frozen=True)
class CalibrationData:
    """What sub-models are measured on in one round: windows int64 [N, T] or questions, as the metric reads."""

    windows_NT: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    questions: Sequence[Question] = ()

    @property
    def sha256(self) -> str:
        """Of all that a measurement reads."""
        digest = hashlib.sha256(f"{self.windows_NT.shape}".encode() + self.windows_NT.tobytes())
        for question in self.questions:
            digest.update(f"{[ids.tolist() for ids in question.sequences]}{question.num_given}{question.gold}".encode())
        return digest.hexdigest()

    def token_ids(self) -> Iterator[NDArray[np.int64]]:
        """All tokens, int64 of any shape."""
        yield self.windows_NT
        yield from (ids for question in self.questions for ids in question.sequences)

    @property
    def num_tokens(self) -> int:
        """Tokens that one measurement puts through the model, padding aside."""
        return sum(ids.size for ids in self.token_ids())


@dataclass(frozen=True)
class MeasuringData:
    """What sub-models are measured on.

    Attributes:
        data: windows or questions.
        dense: the dense model's side of the windows; None where sub-models are not compared with it.
    """

    data: CalibrationData
    dense: DenseSide | None

    def first(self, num_windows: int) -> MeasuringData:
        """Only the first windows."""
        return MeasuringData(CalibrationData(self.data.windows_NT[:num_windows]), self.dense)

    def to(self, device: torch.device) -> MeasuringData:
        """With the dense model's side on a device."""
        return MeasuringData(self.data, None if self.dense is None else self.dense.to(device))


@dataclass
class ModelProbe:
    """See `bonsai_core.contracts.Probe`.

    Attributes:
        model: the sub-model; None where it is one of many lanes, for metrics that read predictions alone.
        predictions: the sub-model's.
        padded: the questions' sequences.
        dense: the dense model's side of the same windows; None if the metric needs none.
    """

    model: Any
    tokenizer: Any
    predictions: Predictions
    data: CalibrationData
    padded: Sequence[PaddedBatch]
    dense: DenseSide | None

    def token_mean(self, per_token: PerToken) -> float:
        return self.predictions.token_mean(per_token, self.data.windows_NT, self.dense)

    def answers(self) -> Sequence[Answers]:
        return self.predictions.answers(self.data.questions, self.padded)
