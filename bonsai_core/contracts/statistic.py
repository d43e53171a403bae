"""What priors and compensators learn from calibration text: a sum over its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Statistic:
    """A site's sum over all calibration tokens.

    The engine adds up batches in float64 (float32 if the device has no float64), so memory does not grow with the text,
    and the result does not depend on how the text was cut into batches.

    Attributes:
        total: the sum of what `accumulate` returned; or the second moments, see `MomentPrior`.
    """

    total: Tensor
    num_tokens: int

    @property
    def mean(self) -> Tensor:
        """The average over tokens, in the shape and type of `total`."""
        return self.total / self.num_tokens
