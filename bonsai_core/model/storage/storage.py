"""Where a model's weights are stored, and what that means for reading and repairing them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Repair
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.structure.layers import DecoderLayer, OutputProjection


@dataclass(frozen=True)
class StandingRepair:
    """The repair of a site that its output projection does not hold.

    Attributes:
        keep: units that it is for, bool [units]; all others are gone.
        weight: [out, units kept, channels]; None where the parent's stays.
        bias: what is added to the output, [out]; None for nothing.
    """

    keep: NDArray[np.bool_]
    weight: Tensor | None
    bias: Tensor | None


class Storage(ABC):
    """One place for weights. Sites say which weights units have, storages how to get at them and how to change them."""

    @property
    @abstractmethod
    def files(self) -> WeightFiles | None:
        """The files that weights are read from, where they cannot be changed; None where the model holds them."""

    @property
    @abstractmethod
    def home(self) -> torch.device:
        """Where new weights are put."""

    @abstractmethod
    def dtype_of(self, output: OutputProjection) -> torch.dtype:
        """The type of new weights."""

    @abstractmethod
    def find(self, layer: DecoderLayer, path: str) -> Tensor | None:
        """A parameter in full precision, by its name in a layer; None where there is none."""

    def parameter(self, layer: DecoderLayer, path: str) -> Tensor:
        """A parameter that is known to be there."""
        tensor = self.find(layer, path)
        assert tensor is not None, f"{path} is in no file"
        return tensor

    @abstractmethod
    def unit_weight(self, output: OutputProjection) -> tuple[Tensor, NDArray[np.bool_] | None]:
        """An output projection's weight with what it was repaired to, [out, units, channels], in any type.

        Returns:
            The weight, and which of the units that the model has it is for, bool [units]; None for all of them.
        """

    @abstractmethod
    def standing_repair(self, output: OutputProjection) -> StandingRepair | None:
        """What an output projection was repaired to that its weights do not hold; None for nothing."""

    @abstractmethod
    def repair(self, output: OutputProjection, keep: NDArray[np.bool_], repair: Repair, *, of_dense: bool) -> None:
        """Apply a repair for good.

        Args:
            of_dense: whether it is of the dense projection, in place of earlier ones, or of the present one.
            keep: the units kept of those that the model has, bool [units]; the others stay as they are.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Tells two dense models apart, cheaply: sha256, hexadecimal."""
