"""Forward passes of a whole model over windows of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Answers
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.padding import padded_batches
from bonsai_core.model.forward.predictions import LastHidden, Predictions
from bonsai_core.model.storage.devices import input_device
from bonsai_core.sources import Question


class Passes:
    """A model as it is, whose layers run one after the other as its own code has them.

    Args:
        chunks: of the windows of a pass.

    Attributes:
        predictions: on any windows.
    """

    def __init__(self, model: CausalLM, chunks: Chunks, chunk_logits: int | None = None) -> None:
        self.model = model
        self.chunks = chunks
        self.predictions = Predictions(model, self.last_hidden, chunk_logits)

    def last_hidden(self, ids_NT: NDArray[np.int64], lengths_N: NDArray[np.int64] | None = None) -> LastHidden:
        """Last hidden states of some windows, chunk by chunk.

        Args:
            lengths_N: tokens of each window without padding; None if there is none.
        """

        def forward(windows: slice) -> Tensor:
            ids = torch.from_numpy(ids_NT[windows]).to(input_device(self.model))
            hidden: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return hidden

        for windows, hidden in self.chunks.run(len(ids_NT), ids_NT.shape[1], forward):
            self.chunks.count(ids_NT[windows].size if lengths_N is None else int(lengths_N[windows].sum()))
            yield windows.start, hidden

    def answers(self, questions: Sequence[Question]) -> list[Answers]:
        """Log-likelihoods of every question's choices; sequences of about the same length share a pass."""
        return self.predictions.answers(questions, padded_batches(questions, self.chunks.tokens))
