"""How much a whole layer changes what passes through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import LayerPrior, SiteView, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class BlockInfluence(LayerPrior):
    """One minus the cosine similarity of a layer's hidden states before and after it, the same for all its units.

    Men et al. 2024 (ShortGPT), arXiv:2403.03853, eq. 1.
    """

    name: ClassVar[str] = "block-influence"

    def accumulate(self, before: Tensor, after: Tensor) -> Tensor:
        from torch.nn.functional import cosine_similarity

        return (1 - cosine_similarity(before, after, dim=-1)).sum(dim=0, keepdim=True)

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        return statistic.mean.clamp(min=0).expand(site.weight.shape[1])
