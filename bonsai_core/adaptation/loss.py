"""The loss of an adaptation: language modelling, and distillation from the dense model on logits and hidden states.

Dery et al. 2024 (arXiv:2402.05406), section 3: L = L_task + w_kl KL(teacher || student) + w_hidden sum_layers MSE. All
but the last are means over predicted tokens, whatever the length of the windows; the released code sums its KL over the
tokens of a window, so that its weight of 0.01 with windows of 512 tokens is one of 5.1 here.

Legend for array shapes: N = windows, L = tokens of a window, T = predicted tokens, H = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bonsai_core.contracts import token_nll
from bonsai_core.model.head import Head
from bonsai_core.model.passes import CHUNK_LOGITS


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
        return cls(ids, torch.cat([top, _rest(logits, ids)], dim=-1) - normaliser)

    def rows(self, tokens: slice) -> TopTokens:
        """Those of some tokens."""
        return TopTokens(self.ids[tokens], self.log_p[tokens])


class WholeTeacher(NamedTuple):
    """A teacher that stands in memory, at the same tokens.

    Attributes:
        head: what makes its logits.
        hidden: its last hidden states, [T, H of the teacher].
    """

    head: Head
    hidden: Tensor

    def rows(self, tokens: slice) -> WholeTeacher:
        """That of some tokens."""
        return WholeTeacher(self.head, self.hidden[tokens])


Teacher = TopTokens | WholeTeacher


@dataclass(frozen=True)
class Losses:
    """Means over tokens, in nats, and of hidden states; each a scalar, 0 where it is not wanted."""

    lm: Tensor
    kl: Tensor
    hidden: Tensor


def top_kl(logits: Tensor, teacher: TopTokens) -> Tensor:
    """KL(teacher || student) in nats of each token [T], over the teacher's likeliest tokens and the bucket.

    Joining outcomes never raises a KL divergence: this is the largest lower bound of the whole one that can be had from
    the teacher's k numbers, and equals it where the student divides the bucket as the teacher does.
    """
    normaliser = logits.logsumexp(dim=-1, keepdim=True)
    log_q = torch.cat([logits.gather(-1, teacher.ids), _rest(logits, teacher.ids)], dim=-1) - normaliser
    return (teacher.log_p.exp() * (teacher.log_p - log_q)).sum(dim=-1)


def whole_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student) in nats of each token [T], from the logits of both [T, V]."""
    log_p = teacher_logits.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - logits.log_softmax(dim=-1))).sum(dim=-1)


def token_losses(head: Head, hidden_TH: Tensor, targets_T: Tensor, teacher: Teacher | None) -> tuple[Tensor, Tensor]:
    """Mean language-model loss and mean KL divergence, from the student's last hidden states.

    Logits are made for a chunk of tokens at a time, as many as make 32 MiB in float32 whatever the vocabulary, and once
    more on the way back, so that they never all stand in memory.

    Args:
        head: the student's.
        targets_T: the tokens that come next.
        teacher: at the same tokens; None: the divergence is 0.
    """
    nll, kl = hidden_TH.new_zeros((), dtype=torch.float32), hidden_TH.new_zeros((), dtype=torch.float32)
    size = max(1, CHUNK_LOGITS // head.vocabulary)
    for first in range(0, len(hidden_TH), size):
        rows = slice(first, first + size)
        part = checkpoint(
            _chunk,
            head,
            hidden_TH[rows],
            targets_T[rows],
            teacher.rows(rows) if teacher is not None else None,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        nll, kl = nll + part[0], kl + part[1]
    return nll / len(hidden_TH), kl / len(hidden_TH)


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of two models' hidden states after each layer, summed over layers."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([torch.nn.functional.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).sum()


def _chunk(head: Head, hidden: Tensor, targets: Tensor, teacher: Teacher | None) -> tuple[Tensor, Tensor]:
    logits = head.logits(hidden)
    nll = token_nll(logits, targets).sum()
    match teacher:
        case None:
            return nll, nll.new_zeros(())
        case TopTokens():
            return nll, top_kl(logits, teacher).sum()
        case WholeTeacher():
            with torch.no_grad():
                theirs = teacher.head.logits(teacher.hidden)
            return nll, whole_kl(logits, theirs).sum()


def _rest(logits: Tensor, ids: Tensor) -> Tensor:
    """logsumexp of all logits but those of `ids`, [T, 1]."""
    return logits.scatter(-1, ids, float("-inf")).logsumexp(dim=-1, keepdim=True)
