"""Weights that cannot be changed where they are: quantised, or in part on the CPU or on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Family, Repair
from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.storage import StandingRepair, Storage
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.structure.channels import by_unit
from bonsai_core.model.structure.layers import DecoderLayer, OutputProjection


@final
class Elsewhere(Storage):
    """The model runs as it was loaded, repairs stand beside it; nothing is sliced before the checkpoint is written.

    Weights are read from the parent's files in full precision, one at a time.

    Args:
        model: a transformers causal LM.
        family: how it is built.
        files: its weights on disk.

    Raises:
        BonsaiError: transformers divides tensors of the files, so that weights cannot be written back one by one.
    """

    def __init__(self, model: Any, family: Family, files: WeightFiles) -> None:
        divided = sorted(name for name in model.state_dict() if name in files and files.num_elements(name) is None)
        if divided:
            raise BonsaiError(
                f"transformers divides tensors of this model's files ({divided[0]} is a part of one), so it cannot be "
                f"sliced from file to file, as --device-map, --load-in and plans need."
            )
        self._layers = family.layers
        self._files = files
        self._standing: dict[str, StandingRepair] = {}

    @property
    def files(self) -> WeightFiles:
        return self._files

    @property
    def home(self) -> torch.device:
        return torch.device("cpu")

    def dtype_of(self, output: OutputProjection) -> torch.dtype:
        return self._files.dtype

    def find(self, layer: DecoderLayer, path: str) -> Tensor | None:
        name = f"{self._layers}.{layer.number}.{path}"
        return self._files.load(name) if name in self._files else None

    def unit_weight(self, output: OutputProjection) -> tuple[Tensor, NDArray[np.bool_] | None]:
        applied = self._standing.get(output.site.name)
        if applied is not None and applied.weight is not None:
            return applied.weight, applied.keep
        return by_unit(self.parameter(output.layer, f"{output.path}.weight"), output.site), None

    def standing_repair(self, output: OutputProjection) -> StandingRepair | None:
        return self._standing.get(output.site.name)

    def repair(self, output: OutputProjection, keep: NDArray[np.bool_], repair: Repair, *, of_dense: bool) -> None:
        before = None if of_dense else self._standing.get(output.site.name)
        biases = [bias.to(self.home) for bias in (before.bias if before else None, repair.bias) if bias is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        if before is None or repair.weight is not None:
            weight = None if repair.weight is None else repair.weight.to(self.home)
            self._standing[output.site.name] = StandingRepair(keep.copy(), weight, bias)
        else:
            self._standing[output.site.name] = replace(before, bias=bias)

    def fingerprint(self) -> str:
        return self._files.fingerprint()
