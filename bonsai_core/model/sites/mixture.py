"""Sites whose units are those of a mixture of experts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import ExpertsSite, Family, Repair
from bonsai_core.model.sites.model_site import ModelSite, Reader
from bonsai_core.model.sites.variant import Variant
from bonsai_core.model.storage.memory import release
from bonsai_core.model.storage.storage import Storage
from bonsai_core.model.structure.channels import numbers_of, select_units
from bonsai_core.model.structure.declared import declared_count
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.units import Price, Site


class Mixture(ModelSite):
    """The experts of one decoder layer. Without an output projection of its own, a unit counts as one channel.

    Attributes:
        experts: the module of the experts.
    """

    mixes_variants: ClassVar[bool] = False

    def __init__(self, site: Site, layer: DecoderLayer, family: Family, config: Any, storage: Storage) -> None:
        super().__init__(site, layer, family, config, storage)
        self.experts: Any = layer.module.get_submodule(self.declared(family).module)

    @abstractmethod
    def masked(self, keep: NDArray[np.bool_]) -> AbstractContextManager[None]:
        """The layer without what the other units give; no trace stays."""

    @abstractmethod
    def idle_params(self, keep: NDArray[np.bool_]) -> int:
        """Parameters that one token's pass does not use, of the layer with these units of the dense one left."""

    @abstractmethod
    def _parameters(self) -> tuple[str, ...]:
        """Names, in the layer, of the parameters that lose something with every unit."""

    @abstractmethod
    def _without(self, path: str, whole: Tensor, kept: Tensor) -> Tensor:
        """What the units kept, by their numbers, have of such a parameter."""

    @abstractmethod
    def _resize(self, count: int) -> None:
        """Have the modules compute with this many units, once their parameters have them."""

    @abstractmethod
    def _weight(self) -> Tensor:
        """How strong each unit's output is, float32 [hidden, units, 1]."""

    @abstractmethod
    def _use(self, args: tuple[Any, ...]) -> Tensor:
        """From what the experts are called with: how large each unit's part is in every token, [tokens, units]."""

    @classmethod
    def is_in(cls, layer: nn.Module, family: Family) -> bool:
        return has_experts(layer, family)

    @classmethod
    def declared(cls, family: Family) -> ExpertsSite:
        """Where a family has its experts."""
        assert family.experts is not None
        return family.experts

    def cached_per_token(self) -> Price:
        return Price(0)

    def variant(self, keep: NDArray[np.bool_], repair: Repair | None) -> Variant:
        return Variant(keep)

    def computing(
        self, variants: Sequence[Variant], variant_N: NDArray[np.int64] | None = None
    ) -> AbstractContextManager[None]:
        """Routers and experts are changed for all sequences of a call."""
        keep = variants[0 if variant_N is None else variant_N[0]].keep
        return nullcontext() if keep.all() else self.masked(keep)

    def slice(self, keep: NDArray[np.bool_], position: int) -> None:
        kept = numbers_of(keep)
        for path in self._parameters():
            holder, _, name = path.rpartition(".")
            whole = self.layer.module.get_parameter(path)
            small = nn.Parameter(self._without(path, whole.detach(), kept), whole.requires_grad)
            setattr(self.layer.module.get_submodule(holder), name, small)
            release(whole.data)
        self._resize(len(kept))

    def reads(self) -> Reader:
        return self.experts, self._use

    def _share_used(self) -> tuple[int, int]:
        """How many of the dense layer's experts every token is sent to, and how many there are."""
        declared = self.declared(self.family)
        used = declared_count(self.config, declared.per_token_field, self.family)
        return used, declared_count(self.config, declared.count_field, self.family)

    def unit_weight(self, keep: NDArray[np.bool_]) -> Tensor:
        return select_units(self._weight(), keep, dim=1)

    def moments(self, lower: Tensor) -> Tensor:
        """The diagonal: experts' outputs point in different directions, so that no unit can replace another."""
        return lower.diagonal().diag()

    def cuts(self, path: str, keep: NDArray[np.bool_]) -> bool:
        return path in self._parameters()

    def cut(self, path: str, keep: NDArray[np.bool_]) -> Tensor | None:
        return self._without(path, self.storage.parameter(self.layer, path), numbers_of(keep))


def has_experts(layer: nn.Module, family: Family) -> bool:
    """Whether a layer has a mixture of experts in place of the MLP."""
    return family.experts is not None and any(name == family.experts.module for name, _ in layer.named_modules())
