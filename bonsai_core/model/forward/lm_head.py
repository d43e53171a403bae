"""From last hidden states to logits, as in the model itself."""

from __future__ import annotations

from torch import Tensor, nn

from bonsai_core.model.causal_lm import CausalLM

ROWS = 4096
"""At most this many rows of the projection are held in float32 at once."""


class Head:
    """The output embeddings of a causal LM, and what its family does to their logits."""

    def __init__(self, model: CausalLM) -> None:
        self.projection: nn.Linear = model.get_output_embeddings()
        self._scaling = float(getattr(model.config, "logits_scaling", None) or 1.0)  # Granite
        self._scaling /= float(getattr(model.config, "logit_scale", None) or 1.0)  # Cohere
        self._cap = getattr(model.config, "final_logit_softcapping", None)  # Gemma 2

    @property
    def is_linear(self) -> bool:
        """Whether logits are linear in the hidden state."""
        return self._cap is None

    @property
    def vocabulary(self) -> int:
        """Logits per token."""
        return int(self.projection.weight.shape[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., vocabulary], of hidden states [..., hidden]."""
        logits: Tensor = self.projection(hidden)
        logits = logits.float() / self._scaling
        return logits if self._cap is None else (logits / self._cap).tanh() * self._cap

    def average(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The linear function of the hidden state that gives the logits' average under p [tokens, vocabulary].

        Returns:
            float32 [tokens, hidden] and [tokens]: what the hidden state is multiplied with, and what is added.
        """
        weight, bias = self.projection.weight, self.projection.bias
        row = p.new_zeros(len(p), weight.shape[1])
        for first in range(0, len(weight), ROWS):
            rows = slice(first, first + ROWS)
            row += p[:, rows] @ weight[rows].float()
        constant = p @ bias.float() if bias is not None else p.new_zeros(len(p))
        return row / self._scaling, constant / self._scaling
