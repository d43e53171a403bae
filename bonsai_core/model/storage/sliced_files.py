"""The tensors of a pruned model, each made from the parent's file when it is asked for."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.model.storage.frozen import FrozenSubject
from bonsai_core.model.structure.channels import in_model_order
from bonsai_core.model.structure.layer_count import set_layers
from bonsai_core.model.structure.unit_table import Part
from bonsai_core.model.subject import sliced
from bonsai_core.units import Site


class SlicedFiles:
    """What slicing a frozen model by a keep vector, with its applied repairs, would leave.

    Args:
        subject: the model.
        keep_U: units kept, bool [U].
    """

    def __init__(self, subject: FrozenSubject, keep_U: NDArray[np.bool_]) -> None:
        self._subject = subject
        self._keep_U = keep_U
        stay = [n for n in subject.layers_present() if subject.table.layer_stays(n, keep_U)]
        self.config = copy.deepcopy(subject.model.config)
        self.config.dtype = subject.files.dtype
        set_layers(self.config, stay)
        layers = subject.family.layers
        self._layer = {f"{layers}.{position}.": index for position, index in enumerate(stay)}
        self._sites = [site for site in subject.table if site.kind != "layer"]

    def tensor_of(self, name: str) -> Tensor | None:
        """The tensor that goes under a name of the pruned model; None where there is none."""
        prefix = next((prefix for prefix in self._layer if name.startswith(prefix)), None)
        if prefix is None:
            return self._load(name)
        index, rest = self._layer[prefix], name.removeprefix(prefix)
        path, _, what = rest.rpartition(".")
        for site in self._sites:
            if site.layer != index:
                continue
            if site.in_mixture:
                if rest in self._subject.mixtures[site.name].parameters:
                    return self._cut_mixture(site, rest)
                continue
            output = self._subject.output_path(site)
            stands_in = self._is_empty(site) and output.startswith(f"{path}.")
            if name.endswith(".bias") and (path == output or stands_in):
                return self._output_bias(site)
            for part in self._subject.parts(site):
                if part.path == path:
                    return self._cut(site, part, what)
        return self._load(f"{self._subject.family.layers}.{index}.{rest}")

    def _cut(self, site: Site, part: Part, what: str) -> Tensor | None:
        """A weight or bias of one of a site's linears, of the units that are kept."""
        keep = self._keep_U[site.units]
        if part.dim == 1:
            kept = self._subject.unit_weight(site, self._keep_U)  # with what it was repaired to
            return in_model_order(kept, site).to(self._subject.files.dtype).cpu()
        whole = self._load(self._subject.name_in_layer(site, f"{part.path}.{what}"))
        if whole is None:
            return None
        return sliced(whole, part, torch.from_numpy(np.flatnonzero(keep)), len(keep), 0)

    def _cut_mixture(self, site: Site, path: str) -> Tensor:
        """A parameter of a mixture of experts, of the units that are kept."""
        whole = self._subject.files.load(self._subject.name_in_layer(site, path))
        stay = torch.from_numpy(np.flatnonzero(self._keep_U[site.units]))
        return self._subject.mixtures[site.name].cut(path, whole, stay)

    def _output_bias(self, site: Site) -> Tensor | None:
        """The bias of an output projection, with what repairs add; zeros where one was added to others only."""
        name = self._subject.name_in_layer(site, f"{self._subject.output_path(site)}.bias")
        own, applied = self._load(name), self._subject.applied_repairs.get(site.name)
        change = applied.bias if applied is not None else None
        if own is None:
            own = torch.zeros(self._subject.output(site).out_features, dtype=self._subject.files.dtype)
        return own if change is None else (own.float() + change.cpu().float()).to(own.dtype)

    def _is_empty(self, site: Site) -> bool:
        return not self._keep_U[site.units].any()

    def _load(self, name: str) -> Tensor | None:
        return self._subject.files.load(name) if name in self._subject.files else None
