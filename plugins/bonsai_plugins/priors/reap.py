"""How much a unit puts out where it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import InputPrior, SiteView, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class Reap(InputPrior):
    """Mean over the tokens sent to an expert, of router weight times norm of the expert's output.

    Lasby et al. 2025, arXiv:2510.13999, the saliency of router-weighted expert activation pruning. An expert that few
    tokens are sent to is not worth less for that, as long as it matters to them.

    KV groups and channels, of MLPs or of all experts, get the same by their channels: mean |input| over the tokens for
    which it is not zero, times the norm of the weights that read it. Nearly every token uses them, so this is Wanda
    with the mean in place of the root mean square.
    """

    name: ClassVar[str] = "reap"

    def accumulate(self, inputs: Tensor) -> Tensor:
        from torch import stack

        return stack([inputs.abs().sum(dim=0), inputs.count_nonzero(dim=0)], dim=1)  # [units, 2, channels]

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        from torch.linalg import vector_norm

        size, num_tokens = statistic.total.unbind(dim=1)
        by_channel: Tensor = size / num_tokens.clamp(min=1) * vector_norm(site.weight, dim=0)
        return by_channel.mean(dim=-1)
