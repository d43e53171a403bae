"""What the units of a site are in a model, whatever their kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Family, Repair
from bonsai_core.model.sites.variant import Variant
from bonsai_core.model.storage.storage import Storage
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.units import Price, Site, SiteKind

Reader = tuple[nn.Module, Callable[[tuple[Any, ...]], Tensor]]
"""A module, and what it reads of the arguments of a call: [..., channels of all units]."""


class ModelSite(ABC):
    """One site of one model. A kind of unit is a final class of these, and a row of `sites.table.SITES`.

    `keep` means, in all methods, which of the units that the model still has are kept: bool [units], True = kept.

    Args:
        site: its numbers.
        layer: where it is.
        family: how the model is built.
        config: the model's configuration, of the dense sizes.
        storage: where the weights are.

    Attributes:
        kind: the name of the kind in `units.KINDS_OF_SITE`, which says of it what needs no model.
        mixes_variants: whether one call of the layer can compute several variants.
    """

    kind: ClassVar[SiteKind]
    mixes_variants: ClassVar[bool]

    def __init__(self, site: Site, layer: DecoderLayer, family: Family, config: Any, storage: Storage) -> None:
        self.site = site
        self.layer = layer
        self.family = family
        self.config = config
        self.storage = storage

    @classmethod
    @abstractmethod
    def is_in(cls, layer: nn.Module, family: Family) -> bool:
        """Whether a decoder layer has such a site."""

    @classmethod
    @abstractmethod
    def declare(cls, layer: DecoderLayer, first: int, family: Family, config: Any) -> Site:
        """The site of a dense layer, with its exact prices. Works on the meta device too.

        Args:
            first: the number of its first unit.

        Raises:
            BonsaiError: the layer is not as declared.
        """

    @classmethod
    @abstractmethod
    def sizes(cls, family: Family, config: Any, count: int) -> dict[str, int]:
        """What the configuration says of a layer in which this many units are left.

        Args:
            config: of the dense model.
        """

    @abstractmethod
    def used_per_token(self) -> Price:
        """Parameters of the dense layer that one token's pass uses."""

    @abstractmethod
    def cached_per_token(self) -> Price:
        """Numbers that the dense layer's key-value cache holds for one token, less what it holds without the units."""

    @abstractmethod
    def variant(self, keep: NDArray[np.bool_], repair: Repair | None) -> Variant:
        """What the layer computes without the other units, repaired or not, for `computing`."""

    @abstractmethod
    def computing(
        self, variants: Sequence[Variant], variant_N: NDArray[np.int64] | None = None
    ) -> AbstractContextManager[None]:
        """The layer computing these variants; no trace stays.

        Args:
            variant_N: the variant of each sequence of a call, the same for all of them unless `mixes_variants`; None
                for the first one in calls of any size.
        """

    @abstractmethod
    def slice(self, keep: NDArray[np.bool_], position: int) -> None:
        """Remove all other units, in place, one parameter at a time.

        Args:
            position: of the layer among those that are left, by which the key-value cache knows it.
        """

    @abstractmethod
    def reads(self) -> Reader:
        """The module that reads the units' output, for hooks."""

    @abstractmethod
    def unit_weight(self, keep: NDArray[np.bool_]) -> Tensor:
        """How the output of each unit kept is weighted, [hidden, units, channels], with repairs; in any type."""

    @abstractmethod
    def moments(self, lower: Tensor) -> Tensor:
        """Second moments of what is read, as far as they mean something; `lower` is right on and below the diagonal."""

    @abstractmethod
    def cuts(self, path: str, keep: NDArray[np.bool_]) -> bool:
        """Whether a parameter has something of the units, by the name in the layer that it has once it is pruned."""

    @abstractmethod
    def cut(self, path: str, keep: NDArray[np.bool_]) -> Tensor | None:
        """What such a parameter is once it is pruned, read from where the weights are; None where there is none."""
