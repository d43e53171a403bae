"""Weights that the model holds in full precision, where they can be changed."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Repair
from bonsai_core.model.storage.devices import input_device
from bonsai_core.model.storage.fingerprint import fingerprint
from bonsai_core.model.storage.storage import Storage
from bonsai_core.model.structure.channels import by_unit, in_model_order
from bonsai_core.model.structure.layers import DecoderLayer, OutputProjection


@final
class InPlace(Storage):
    """Repairs are written into the weights.

    Args:
        model: a transformers causal LM.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._dense_biases: dict[str, Tensor | None] = {}

    @property
    def files(self) -> None:
        return None

    @property
    def home(self) -> torch.device:
        return input_device(self._model)

    def dtype_of(self, output: OutputProjection) -> torch.dtype:
        return output.linear.weight.dtype

    def find(self, layer: DecoderLayer, path: str) -> Tensor | None:
        holder, _, name = path.rpartition(".")
        tensor: Tensor | None = getattr(layer.module.get_submodule(holder), name, None)
        return None if tensor is None else tensor.detach()

    def unit_weight(self, output: OutputProjection) -> tuple[Tensor, NDArray[np.bool_] | None]:
        return by_unit(output.linear.weight.detach(), output.site), None

    def standing_repair(self, output: OutputProjection) -> None:
        return None

    def repair(self, output: OutputProjection, keep: NDArray[np.bool_], repair: Repair, *, of_dense: bool) -> None:
        linear, num_stretches = output.linear, output.site.stretches
        if repair.weight is not None:
            kept = torch.from_numpy(keep).to(linear.weight.device)
            stretches = linear.weight.data.view(len(linear.weight), num_stretches, len(keep), -1)
            new = in_model_order(repair.weight, output.site).view(len(stretches), num_stretches, int(keep.sum()), -1)
            stretches[:, :, kept] = new.to(stretches.device, stretches.dtype)
        if repair.bias is not None:
            change = repair.bias.to(linear.weight.device).float()
            now = None if linear.bias is None else linear.bias.detach()
            dense = self._dense_biases.setdefault(output.site.name, now)
            own = dense if of_dense else now
            new = change + (0 if own is None else own.float())
            linear.bias = nn.Parameter(new.to(linear.weight.dtype), linear.weight.requires_grad)

    def fingerprint(self) -> str:
        return fingerprint(self._model)
