"""The student together with its losses: one forward pass gives what is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.loss import Teacher, TokenLosses, WholeTeacher, hidden_loss, token_losses
from bonsai_core.adaptation.methods import causal_lm
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.model.forward.lm_head import Head

Value = TypeVar("Value")


class Objective(nn.Module):
    """What the Trainer trains. Its forward pass ends with the loss, so that whatever wraps it sees all gradients.

    Args:
        model: from `prepare`, on its device.
        teacher: stored log-probabilities, or a causal LM that runs at every step; None without distillation.
        layers: for each layer of the model, which one of the teacher's it was; None without `hidden_weight`.
    """

    def __init__(
        self, model: nn.Module, teacher: StoredTeacher | Any | None, layers: Sequence[int] | None, config: AdaptConfig
    ) -> None:
        super().__init__()
        self.model = model
        self._student = (causal_lm(model),)  # in tuples: modules of their own would be found twice, or be trained
        self._teacher = (teacher,)
        self._layers = layers
        self._config = config

    def forward(self, input_ids: Tensor, window: Tensor) -> dict[str, Tensor]:
        """The losses on some windows, scalars: `lm`, `kl` and `hidden`, and their weighted sum `loss`."""
        with self._precision():
            tokens, hidden = self._losses(input_ids, window)
        loss = tokens.loss + self._config.hidden_weight * hidden
        return {"loss": loss, "lm": tokens.lm, "kl": tokens.kl, "hidden": hidden}

    def with_weights(self, compute: Callable[[], Value]) -> Value:
        """What is computed with the student outside of `forward`; all weights that it has in no layer are at hand."""
        with self._precision():
            return compute()

    def _precision(self) -> torch.autocast:
        device = next(self.parameters()).device
        mixed = self._config.precision_on(device) == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=mixed)

    def _losses(self, ids_NL: Tensor, windows_N: Tensor) -> tuple[TokenLosses, Tensor]:
        """From the logits, and from the hidden states."""
        (student,), (whole,) = self._student, self._teacher
        compared = self._layers is not None
        output = student.base_model(input_ids=ids_NL, use_cache=False, output_hidden_states=compared)
        teacher: Teacher | None = None
        hidden = ids_NL.new_zeros((), dtype=torch.float32)
        if isinstance(whole, StoredTeacher):
            teacher = whole.tokens(windows_N, ids_NL.device)
        elif whole is not None:
            with torch.no_grad():
                theirs = whole.base_model(input_ids=ids_NL, use_cache=False, output_hidden_states=compared)
            teacher = WholeTeacher(Head(whole), theirs.last_hidden_state[:, :-1].flatten(0, 1))
            if self._layers is not None:
                after = theirs.hidden_states
                # The last one is taken after the final norm, whichever layer it comes from.
                compared_with = [*(after[layer + 1] for layer in self._layers[:-1]), after[-1]]
                hidden = hidden_loss(output.hidden_states[1:], compared_with)
        states_TH = output.last_hidden_state[:, :-1].flatten(0, 1)
        config = self._config
        tokens = token_losses(
            Head(student),
            states_TH,
            ids_NL[:, 1:].flatten(),
            teacher,
            lm_weight=config.lm_weight,
            kl_weight=config.kl_weight,
        )
        return tokens, hidden
