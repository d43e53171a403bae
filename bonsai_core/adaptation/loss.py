"""The loss of an adaptation: language modelling, and distillation from the dense model on logits and hidden states.

Dery et al. 2024 (arXiv:2402.05406), section 3: L = L_task + w_kl KL(teacher || student) + w_hidden sum_layers MSE. All
but the last are means over predicted tokens, whatever the length of the windows; the released code sums its KL over the
tokens of a window, so that its weight of 0.01 with windows of 512 tokens is one of 5.1 here.

Legend for array shapes: N = windows, L = tokens of a window, T = predicted tokens, H = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bonsai_core.model.forward.lm_head import Head
from bonsai_core.model.forward.predictions import CHUNK_LOGITS

SMALLEST = 1e-6
"""Lowest probability of the bucket."""


class TopTokens(NamedTuple):
    """A teacher's distributions over the next token: its likeliest tokens, and all others as one bucket.

    Attributes:
        ids: the likeliest tokens, int64 [T, k].
        log_p: their log-probabilities and, last, that of the bucket, [T, k + 1].
    """

    ids: Tensor
    log_p: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int) -> TopTokens:
        """The same of whole logits [T, V], with k < V."""
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        top, ids = logits.topk(k, dim=-1)
        bucket = logits.scatter(-1, ids, float("-inf")).logsumexp(dim=-1, keepdim=True)
        return cls(ids, torch.cat([top, bucket], dim=-1) - normaliser)

    def rows(self, tokens: slice) -> TopTokens:
        """Those of some tokens."""
        return TopTokens(self.ids[tokens], self.log_p[tokens])


class WholeTeacher(NamedTuple):
    """A teacher that is held in memory, at the same tokens.

    Attributes:
        hidden: its last hidden states, [T, H of the teacher].
    """

    head: Head
    hidden: Tensor

    def rows(self, tokens: slice) -> WholeTeacher:
        """That of some tokens."""
        return WholeTeacher(self.head, self.hidden[tokens])


Teacher = TopTokens | WholeTeacher


def top_kl(logits: Tensor, teacher: TopTokens, normaliser: Tensor | None = None) -> Tensor:
    """KL(teacher || student) in nats of each token [T], over the teacher's likeliest tokens and the bucket.

    Joining outcomes never raises a KL divergence: this is the largest lower bound of the whole one that the teacher's k
    numbers allow, and equals it where the student divides the bucket as the teacher does.

    Args:
        logits: the student's, [T, V].
        normaliser: their logsumexp [T], if it is known already.
    """
    normaliser = (logits.logsumexp(dim=-1) if normaliser is None else normaliser).unsqueeze(-1)
    log_q = logits.gather(-1, teacher.ids) - normaliser
    log_p, log_p_bucket = teacher.log_p[:, :-1], teacher.log_p[:, -1:]
    # What is left of 1; float32 cannot represent a smaller difference from it.
    log_q_bucket = (-log_q.logsumexp(dim=-1, keepdim=True).clamp(max=-SMALLEST).expm1()).log()
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1, keepdim=True)
    return (divergence + log_p_bucket.exp() * (log_p_bucket - log_q_bucket)).squeeze(-1)


def whole_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) in nats of each token [T], from the logits of both [T, V]."""
    log_p = teacher_logits.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - logits.log_softmax(dim=-1))).sum(dim=-1)


class TokenLosses(NamedTuple):
    """What `token_losses` gives: scalars, of which only `loss` has a gradient."""

    loss: Tensor
    lm: Tensor
    kl: Tensor


def token_losses(
    head: Head,
    hidden_TH: Tensor,
    targets_T: Tensor,
    teacher: Teacher | None,
    *,
    lm_weight: float = 1.0,
    kl_weight: float = 1.0,
    chunk_logits: int = CHUNK_LOGITS,
) -> TokenLosses:
    """Mean language-model loss, mean KL divergence and their weighted sum, from the student's last hidden states.

    Logits are computed for a chunk of tokens at a time, and their gradient with them, so that they are never all held
    in memory and are computed only once.

    Args:
        teacher: at the same tokens; None: the divergence is 0.
        chunk_logits: logits that are computed at once, 32 MiB in float32 by default.
    """
    parameters = [parameter for parameter in head.projection.parameters() if parameter.requires_grad]
    weights = (lm_weight, kl_weight)
    losses: tuple[Tensor, Tensor, Tensor] = _ChunkedLosses.apply(  # type: ignore[no-untyped-call]
        head, targets_T, teacher, weights, max(1, chunk_logits // head.vocabulary), hidden_TH, *parameters
    )
    return TokenLosses(*losses)


class _ChunkedLosses(torch.autograd.Function):
    """The losses, with their gradient computed in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        targets_T: Tensor,
        teacher: Teacher | None,
        weights: tuple[float, float],
        chunk_tokens: int,
        hidden_TH: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(hidden_TH)
        sums = torch.zeros(3, dtype=torch.float64 if hidden_TH.device.type == "cpu" else torch.float32)
        sums = sums.to(hidden_TH.device)
        slope_TH, slopes = torch.empty_like(hidden_TH), [torch.zeros_like(parameter) for parameter in parameters]
        for first in range(0, count, chunk_tokens):
            rows = slice(first, first + chunk_tokens)
            with torch.enable_grad():
                hidden = hidden_TH[rows].detach().requires_grad_()
                lm, kl = _chunk(head, hidden, targets_T[rows], teacher.rows(rows) if teacher is not None else None)
                loss = (weights[0] * lm + weights[1] * kl) / count
            own, *others = torch.autograd.grad(loss, [hidden, *parameters])
            slope_TH[rows] = own
            for total, other in zip(slopes, others, strict=True):
                total += other
            sums += torch.stack([loss.detach() * count, lm.detach(), kl.detach()])
        ctx.save_for_backward(slope_TH, *slopes)
        loss, lm, kl = (sums / count).float()
        ctx.mark_non_differentiable(lm, kl)
        return loss, lm, kl

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *others: Tensor) -> Any:
        return (None, None, None, None, None, *(slope.to(saved.dtype) * saved for saved in ctx.saved_tensors))


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of two models' hidden states after each layer, summed over layers."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([torch.nn.functional.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).sum()


def _chunk(head: Head, hidden: Tensor, targets: Tensor, teacher: Teacher | None) -> tuple[Tensor, Tensor]:
    """Language-model loss and divergence, summed over some tokens."""
    logits = head.logits(hidden)
    normaliser = logits.logsumexp(dim=-1)
    nll = (normaliser - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).sum()
    match teacher:
        case None:
            return nll, nll.new_zeros(())
        case TopTokens():
            return nll, top_kl(logits, teacher, normaliser).sum()
        case WholeTeacher():
            with torch.no_grad():
                theirs = teacher.head.logits(teacher.hidden)
            return nll, whole_kl(logits, theirs).sum()
